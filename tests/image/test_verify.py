"""`dockless verify`: damage in the store is found, and mended from what is whole or from the source."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import config, paths
from runner.errors import UserError
from runner.image import auth, fetch, layers
from runner.job import state, verify
from runner.model import IdMap, Image
from tests.support import images, stores, trees
from tests.support.defences import attack, without
from tests.support.images import directory, file
from tests.support.layered import emptied
from tests.support.locks import Holder

BASE = [directory("etc"), file("etc/conf", b"base", uid=7)]
TOP = [file("shared/hello", b"hi")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[paths.Store]:
    with emptied(tmp_path / "store") as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> str:
    images.write_oci_layout(tmp_path / "layout", images.build_image([BASE, TOP]), "one")
    return f"oci:{tmp_path}/layout:one"


def pull(store: paths.Store, source: str, id_map: IdMap | None = None) -> Image:
    return fetch.fetch(source, store=store, settings=config.Settings(), keychain=auth.Keychain(), id_map=id_map or trees.isolated())


def check(store: paths.Store) -> verify.Report:
    return verify.run(store, fetch=lambda name, _image, id_map: pull(store, name, id_map))


def lower(store: paths.Store, image: Image) -> list[Path]:
    return [Path(path) for path in layers.lower_directories(image, trees.isolated(), store=store)]


def damage(path: Path) -> None:
    def work() -> None:
        info = path.stat()
        path.write_bytes(b"BASE")
        os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))

    trees.in_keeper(work)


def test_store_that_is_whole_has_nothing_to_mend(store: paths.Store, source: str) -> None:
    found = lower(store, pull(store, source))
    before = [path.stat().st_ino for path in found]
    assert check(store) == verify.Report(blobs=4, layers=2, unchecked=0, mended=(), broken=())
    assert [path.stat().st_ino for path in found] == before
    assert stores.leftovers(store) == []


@attack(
    50,
    without("runner/job/verify.py", "    if not difference:\n        return\n", "    return\n"),
)
def test_flipped_bits_in_a_layer_are_found_and_mended(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    damage(lower(store, image)[1] / "etc/conf")
    report = check(store)
    assert (len(report.mended), report.broken) == (1, ())
    assert "etc/conf has other content" in report.mended[0]
    assert trees.look(lower(store, image)[1])["etc/conf"].text == "base"
    assert check(store).mended == ()


def test_layer_named_by_its_chain_is_checked_over_the_layers_below(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    damage(lower(store, image)[0] / "shared/hello")
    assert "shared/hello has another size" in check(store).mended[0]
    assert trees.look(lower(store, image)[0])["shared/hello"].text == "hi"


def test_damaged_blob_is_removed_and_fetched_again(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    blob = Path(store.blob(image.layers[0].blob.digest))
    good = blob.read_bytes()
    blob.write_bytes(bytes(len(good)))
    config_blob = Path(store.blob(image.config_digest))
    config_blob.write_bytes(b"{}")
    report = check(store)
    assert [words.partition(" ")[0] for words in report.mended] == ["blob", "blob", "image"]
    assert report.broken == ()
    assert config_blob.read_bytes() != b"{}"
    assert lower(store, pull(store, source))


def test_layer_whose_blob_was_collected_is_counted_as_unchecked(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    os.unlink(store.blob(image.layers[0].blob.digest))
    report = verify.run(store, fetch=lambda *_: None)
    assert (report.layers, report.unchecked) == (1, 1)


def test_damaged_layer_of_a_running_job_is_named_and_left_alone(store: paths.Store, source: str) -> None:
    found = lower(store, pull(store, source))
    damage(found[1] / "etc/conf")
    os.mkdir(store.job("job"))
    used = (f"{found[1].parent.name}/{found[1].name}",)
    state.save(store, state.JobState("job", trees.first_user(), 0, None, state.NO_KEEPER, {}, {}, "", 0.0, layers=used))
    with Holder(Path(store.job_lock("job"))):
        report = check(store)
    assert report.mended == ()
    assert "a running job uses it" in report.broken[0]
    assert trees.look(found[1])["etc/conf"].text == "BASE"


def test_image_that_cannot_come_again_is_broken(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    os.unlink(store.blob(image.config_digest))

    def fail(*_: object) -> None:
        raise UserError("registry has it no more")

    assert verify.run(store, fetch=fail).broken == (f"image {source} is incomplete, and cannot be fetched again: registry has it no more",)
