"""The index of stored images: what is found, what is not, and what damaged records do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import paths
from runner.errors import UserError
from runner.image import images, platforms
from runner.model import Descriptor, Healthcheck, Image, ImageConfig, Layer
from tests.support import stores
from tests.support.images import digest_of

OTHER = "linux/s390x" if str(platforms.host()) != "linux/s390x" else "linux/amd64"


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def stored_image(store: paths.Store, *, source: str = "x", seed: str = "a", platform: str = str(platforms.host())) -> Image:
    """An image with all its blobs in the store."""
    digests = []
    for name in ("manifest", "config", "layer"):
        data = f"{seed} {name}".encode()
        Path(store.blob(digest_of(data))).write_bytes(data)
        digests.append(digest_of(data))
    config = ImageConfig(
        entrypoint=("/e",), cmd=("a", "b"), env=(("A", "1"), ("B", "")), working_dir="/w", user="u", exposed_ports=("1/tcp",),
        volumes=("/v",),
        stop_signal="SIGINT", healthcheck=Healthcheck(("CMD", "true"), 1.5, 2.5, 3.5, 4),
    )  # fmt: skip
    size = len(f"{seed} layer")
    layer = Layer(Descriptor("application/vnd.oci.image.layer.v1.tar", digests[2], size), digest_of(b"diff"))
    return Image(source, digests[0], digests[1], (layer,), config, platform, size)


def record_file(store: paths.Store) -> Path:
    (name,) = os.listdir(store.images)
    return Path(store.images) / name


def test_image_comes_back_as_it_was(store: paths.Store) -> None:
    image = stored_image(store)
    images.add(store, "docker.io/library/alpine:3", image)
    assert images.find(store, "docker.io/library/alpine:3") == image
    assert images.find(store, "alpine:3") == image
    assert images.find(store, "alpine:4") is None
    assert images.all(store) == [("docker.io/library/alpine:3", image)]


def test_image_without_one_of_its_blobs_is_not_found(store: paths.Store) -> None:
    for blob in range(3):
        image = stored_image(store)
        images.add(store, "alpine", image)
        Path(store.blob(images.blobs_of(image)[blob].digest)).unlink()
        assert images.find(store, "alpine") is None


def test_image_with_a_layer_cut_short_on_disk_is_not_found(store: paths.Store) -> None:
    image = stored_image(store)
    images.add(store, "alpine", image)
    os.truncate(store.blob(image.layers[0].blob.digest), 3)
    assert images.find(store, "alpine") is None


def test_every_platform_has_its_image(store: paths.Store) -> None:
    here, there = stored_image(store, seed="h"), stored_image(store, seed="t", platform=OTHER)
    images.add(store, "alpine", here)
    images.add(store, "alpine", there, platform=OTHER)
    assert images.find(store, "alpine") == here
    assert images.find(store, "alpine", platform=str(platforms.host())) == here
    assert images.find(store, "alpine", platform=OTHER) == there
    assert len(images.all(store)) == 2


def test_image_of_another_platform_is_not_found_unless_asked_for(store: paths.Store) -> None:
    images.add(store, "alpine", stored_image(store, platform=OTHER), platform=OTHER)
    assert images.find(store, "alpine") is None
    assert images.find(store, "alpine", platform=OTHER) is not None


def test_what_a_pull_without_platform_chose_is_found_again(store: paths.Store) -> None:
    foreign = stored_image(store, platform=OTHER)
    images.add(store, "alpine", foreign)
    assert images.find(store, "alpine") == foreign


def test_removed_name_is_gone_and_removing_is_idempotent(store: paths.Store) -> None:
    images.add(store, "alpine", stored_image(store))
    assert images.remove(store, "alpine:latest")
    assert not images.remove(store, "alpine")
    assert images.find(store, "alpine") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 99}', '{"format":1,"name":"x","images":[]}', "\x00" * 100])
def test_damaged_record_is_as_none(store: paths.Store, content: str) -> None:
    images.add(store, "alpine", stored_image(store))
    record_file(store).write_text(content)
    assert images.find(store, "alpine") is None
    assert images.all(store) == []
    images.add(store, "alpine", stored_image(store))
    assert images.find(store, "alpine") is not None


@pytest.mark.parametrize("field", ["digest", "config_digest", "layers", "config", "platform", "size"])
def test_record_with_a_flipped_field_is_as_none(store: paths.Store, field: str) -> None:
    images.add(store, "alpine", stored_image(store))
    record = json.loads(record_file(store).read_text())
    record["images"][""].pop(field)
    record_file(store).write_text(json.dumps(record))
    assert images.find(store, "alpine") is None


def test_digest_in_a_record_is_never_a_way_out_of_the_store(store: paths.Store) -> None:
    images.add(store, "alpine", stored_image(store))
    record = json.loads(record_file(store).read_text())
    record["images"][""]["digest"] = "sha256:../../../etc/passwd"
    record_file(store).write_text(json.dumps(record))
    assert images.find(store, "alpine") is None


def test_image_of_a_local_file_is_forgotten_when_the_file_changes(store: paths.Store, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(b"one")
    image = stored_image(store)
    images.add(store, f"docker-archive:{file}", image, made_from=str(file))
    assert images.find(store, f"docker-archive:{file}") == image
    file.write_bytes(b"other")
    assert images.find(store, f"docker-archive:{file}") is None
    file.unlink()
    assert images.find(store, f"docker-archive:{file}") == image


def test_long_and_strange_names_are_kept_apart(store: paths.Store) -> None:
    names = ["oci:/" + "d/" * 500 + end for end in "ab"] + ["oci:/ä\n", "oci:/%2f", "oci:/..x", "docker-archive:/-"]
    for number, name in enumerate(names):
        images.add(store, name, stored_image(store, source=name, seed=str(number)))
    for number, name in enumerate(names):
        found = images.find(store, name)
        assert found is not None
        assert found.digest == digest_of(f"{number} manifest".encode())


def test_toolbox_is_always_there(store: paths.Store) -> None:
    found = images.find(store, "toolbox")
    assert found is not None
    assert (found.source, found.layers, found.config.cmd, found.config.user) == ("toolbox", (), ("/bin/bash",), "")
    assert dict(found.config.env)["PATH"].startswith("/usr/local/sbin")
    assert images.blobs_of(found) == ()


def test_bad_names_and_platforms_are_the_users_error(store: paths.Store) -> None:
    with pytest.raises(UserError):
        images.find(store, "$(id)")
    images.add(store, "alpine", stored_image(store))
    with pytest.raises(UserError):
        images.find(store, "alpine", platform="windows/amd64")


def test_hot_path_loads_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import runner.image.images, runner.image.pull; print(*sorted(set(sys.modules) - before))"
    modules = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True).stdout.split()
    for heavy in (
        "requests",
        "urllib3",
        "ssl",
        "socket",
        "http.client",
        "hashlib",
        "yaml",
        "click",
        "dataclasses",
        "subprocess",
        "tarfile",
    ):
        assert heavy not in modules
