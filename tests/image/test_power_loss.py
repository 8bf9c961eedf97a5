"""A power failure drops what was not flushed: afterwards a blob or a layer is whole, or is not there and comes again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import config, paths
from runner.image import auth, blobs, fetch, layer_names, layer_store, layers, settling, unpacking
from runner.image import images as records
from runner.kernel import boot, syscalls
from runner.model import Image
from tests.support import images, trees
from tests.support.defences import attack, without
from tests.support.images import directory, file
from tests.support.layered import emptied
from tests.support.power import Disk

BASE = [directory("etc"), file("etc/conf", b"base" * 10_000, uid=7)]
TOP = [file("shared/hello", b"hi" * 10_000)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[paths.Store]:
    with emptied(tmp_path / "store") as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> str:
    images.write_oci_layout(tmp_path / "layout", images.build_image([BASE, TOP]), "one")
    return f"oci:{tmp_path}/layout:one"


def pull(store: paths.Store, source: str) -> Image:
    return fetch.fetch(source, store=store, settings=config.Settings(), keychain=auth.Keychain(), id_map=trees.isolated())


def lower(store: paths.Store, image: Image) -> list[Path]:
    return [Path(path) for path in layers.lower_directories(image, trees.isolated(), store=store)]


def lose_content(paths_: list[Path]) -> None:
    """Empty every file of some layers, as a disk does that had their names and not yet their content."""

    def work() -> None:
        for root in paths_:
            for path in root.rglob("*"):
                if path.is_file():
                    os.truncate(path, 0)

    trees.in_keeper(work)


def is_good(found: list[Path]) -> bool:
    return trees.look(found[1])["etc/conf"].text == "base" * 10_000 and trees.look(found[0])["shared/hello"].text == "hi" * 10_000


@attack(
    53,
    without("runner/image/layer_names.py", "return is_same and (until == _SETTLED or until == boot.boot_id().encode())", "return is_same"),
)
def test_layers_that_were_not_flushed_are_unpacked_again_after_the_next_boot(
    store: paths.Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pull(store, source)
    lose_content(lower(store, image))
    monkeypatch.setattr(boot, "boot_id", lambda: "another-boot")
    assert is_good(lower(store, image))


def test_layers_that_were_settled_are_used_as_they_are(store: paths.Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = lower(store, pull(store, source))
    before = [path.stat().st_ino for path in found]
    assert settling.settle(store) == 2
    assert settling.settle(store) == 0
    monkeypatch.setattr(boot, "boot_id", lambda: "another-boot")
    again = lower(store, pull(store, source))
    assert [path.stat().st_ino for path in again] == before


@attack(
    53,
    without("runner/image/settling.py", "        syscalls.syncfs(fd)\n", "        pass\n"),
)
def test_settling_writes_layers_before_it_says_so(store: paths.Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pull(store, source)
    order: list[str] = []
    monkeypatch.setattr(syscalls, "syncfs", lambda fd: order.append("flushed"))
    monkeypatch.setattr(layer_names, "seal", lambda *_place, **_what: order.append("sealed"))
    settling.settle(store)
    assert order == ["flushed", "sealed", "sealed"]


@attack(
    48,
    without("runner/image/settling.py", "            files.remove_tree(store.layer_seal(map_name, name))\n", "            pass\n"),
    more=(53,),
)
def test_disk_that_fails_takes_the_seals_with_it(store: paths.Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pull(store, source)
    lose_content(lower(store, image))

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(syscalls, "syncfs", fail)
        with pytest.raises(OSError, match="Input/output"):
            settling.settle(store)
    assert layer_store.stored(store) == []
    assert is_good(lower(store, image))


@attack(
    53,
    without(
        "runner/image/blobs.py",
        "return os.stat(store.blob(blob.digest)).st_size == blob.size",
        "return os.path.exists(store.blob(blob.digest))",
        "runner/image/unpacking.py",
        "            if blobs.remove_damaged(self._store, blob):",
        "            if False:",
    ),
)
def test_last_writes_of_a_pull_may_be_lost_at_any_point(store: paths.Store, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of the pull's renames the power fails; what was not flushed is lost, and the next pull and job find a good image."""
    with Disk(monkeypatch, Path(store.root)) as disk:
        pull(store, source)
    assert len(disk.renames) > 5
    for point in range(len(disk.renames) + 1):
        disk.restore()
        disk.fail_after(point)
        with monkeypatch.context() as patched:
            patched.setattr(boot, "boot_id", lambda: "another-boot")
            stored = records.find(store, source)
            found = stored or pull(store, source)
            try:
                lowers = lower(store, found)
            except unpacking.Incomplete:
                lowers = lower(store, pull(store, source))
            assert is_good(lowers), f"power failed after rename {point}"


def test_damaged_blob_is_noticed_only_by_its_content(store: paths.Store, source: str) -> None:
    image = pull(store, source)
    blob = image.layers[0].blob
    assert not blobs.remove_damaged(store, blob)
    path = Path(store.blob(blob.digest))
    path.write_bytes(bytes(blob.size))
    assert blobs.is_present(store, blob)
    assert blobs.remove_damaged(store, blob)
    assert not path.exists()
