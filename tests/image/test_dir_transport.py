"""Images as skopeo and buildah keep them in a directory, both ways."""

import json
import os
from pathlib import Path

import pytest

from runner import config, paths
from runner.errors import UserError
from runner.image import auth, dir_transport, fetch
from runner.model import Image
from tests.support import stores
from tests.support.images import BuiltImage, build_image, file, write_oci_layout

ONE = build_image([[file("a", b"1")], [file("b", b"2")], [file("a", b"1")]], docker=True)  # one layer twice


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "state")


def _write(directory: Path, image: BuiltImage) -> None:
    directory.mkdir()
    for digest, data in image.blobs.items():
        (directory / digest.removeprefix("sha256:")).write_bytes(data)
    (directory / "manifest.json").write_bytes(image.manifests[image.digest][1])
    (directory / "version").write_text("Directory Transport Version: 1.1\n")


def _fetch(store: paths.Store, source: str, name: str = "") -> Image:
    return fetch.fetch(source, store=store, settings=config.Settings(), keychain=auth.Keychain(), name=name)


def test_image_of_docker_becomes_a_layout_and_is_stored_under_the_name_that_it_was_given(store: paths.Store, tmp_path: Path) -> None:
    _write(tmp_path / "dir", ONE)
    dir_transport.to_layout(str(tmp_path / "dir"), str(tmp_path / "layout"))
    name = "docker.io/library/app:latest"
    image = _fetch(store, f"oci:{tmp_path}/layout", name)
    assert (image.digest, image.source) == (ONE.digest, name)
    record = json.loads(next(Path(store.images).iterdir()).read_text())
    assert (record["name"], record["made_from"]) == (name, None)


@pytest.mark.parametrize("name", ["manifest.json", "0" * 64])
def test_a_link_is_not_followed_to_what_the_account_may_read(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "dir", ONE)
    (tmp_path / "dir" / name).unlink(missing_ok=True)
    (tmp_path / "dir" / name).symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=f"'{name}' is not a file"):
        dir_transport.to_layout(str(tmp_path / "dir"), str(tmp_path / "layout"))
    assert not (tmp_path / "layout").exists()


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(UserError, match="is no image"):
        dir_transport.to_layout(str(tmp_path / "dir"), str(tmp_path / "layout"))


def test_stored_image_is_shown_with_all_blobs_and_without_copies(store: paths.Store, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "layout", ONE)
    image = _fetch(store, f"oci:{tmp_path}/layout")
    target = f"{store.jobs}/shown"
    dir_transport.link(store, image, target)
    blobs = {name for name in os.listdir(target) if name not in ("manifest.json", "version")}
    assert blobs == {digest.removeprefix("sha256:") for digest in ONE.blobs}
    assert os.stat(f"{target}/manifest.json").st_ino == os.stat(store.blob(image.digest)).st_ino


def test_image_without_one_of_its_blobs_is_not_whole(store: paths.Store, tmp_path: Path) -> None:
    write_oci_layout(tmp_path / "layout", ONE)
    image = _fetch(store, f"oci:{tmp_path}/layout")
    assert dir_transport.is_whole(store, image)
    os.unlink(store.blob(ONE.layer_digests[1]))
    assert not dir_transport.is_whole(store, image)
    with pytest.raises(UserError, match=f"blob {ONE.layer_digests[1]} was collected"):
        dir_transport.link(store, image, f"{store.jobs}/shown")
