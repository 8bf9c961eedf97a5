"""OCI layouts and docker archives: what tools write, and what somebody might write."""

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runner import config, paths
from runner.errors import InfraError, UserError
from runner.image import auth, pull
from runner.model import Image
from tests.support import images, stores
from tests.support.images import file

LAYERS = [[file("a", b"1" * 5000)], [file("b", b"2")]]
BUILT = images.build_image(LAYERS)
PLAIN = images.build_image(LAYERS, compression="none")


@pytest.fixture
def store(tmp_path: Path) -> paths.Store:
    return stores.make(tmp_path / "store")


def ensure(store: paths.Store, source: str, *, platform: str = "") -> Image:
    return pull.ensure(source, store=store, settings=config.Settings(), keychain=auth.Keychain(), platform=platform)


def test_layout_is_read(store: paths.Store, tmp_path: Path) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    for source in (f"oci:{tmp_path}/layout:v1", f"oci:{tmp_path}/layout"):
        image = ensure(store, source)
        assert (image.digest, image.config_digest, image.source) == (BUILT.digest, BUILT.config_digest, source)
        assert tuple(layer.diff_id for layer in image.layers) == BUILT.diff_ids
    assert stores.blobs(store) == {BUILT.digest, *BUILT.blobs}


def test_tag_chooses_in_a_layout(store: paths.Store, tmp_path: Path) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    images.write_oci_layout(tmp_path / "layout", PLAIN, "v2")
    assert ensure(store, f"oci:{tmp_path}/layout:v2").digest == PLAIN.digest
    for source in (f"oci:{tmp_path}/layout", f"oci:{tmp_path}/layout:v3"):
        with pytest.raises(UserError) as caught:
            ensure(store, source)
        assert "v1, v2" in caught.value.hint


def test_index_in_a_layout_is_followed(store: paths.Store, tmp_path: Path) -> None:
    arm = images.build_image(LAYERS, architecture="arm64", variant="v8")
    images.write_oci_layout(tmp_path / "layout", images.build_index([BUILT, arm]), "v1")
    assert ensure(store, f"oci:{tmp_path}/layout", platform="arm64").digest == arm.digest
    assert ensure(store, f"oci:{tmp_path}/layout", platform="linux/amd64").digest == BUILT.digest


def test_rebuilt_layout_is_noticed(store: paths.Store, tmp_path: Path) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    ensure(store, f"oci:{tmp_path}/layout")
    shutil.rmtree(tmp_path / "layout")
    images.write_oci_layout(tmp_path / "layout", PLAIN, "v1")
    assert ensure(store, f"oci:{tmp_path}/layout").digest == PLAIN.digest


def test_path_with_colons_is_found(store: paths.Store, tmp_path: Path) -> None:
    images.write_oci_layout(tmp_path / "a:b:c", BUILT, "v1")
    assert ensure(store, f"oci:{tmp_path}/a:b:c:v1").digest == BUILT.digest
    assert ensure(store, f"oci:{tmp_path}/a:b:c").digest == BUILT.digest


@pytest.mark.parametrize("source", ["oci:/none", "oci:/none:tag", "docker-archive:/none", "docker-archive:/none:team/app:1"])
def test_missing_path_is_the_users_error(store: paths.Store, source: str) -> None:
    with pytest.raises(UserError, match="no such image file or directory: /none"):
        ensure(store, source)


def break_layout(layout: Path, how: str) -> None:
    blob = layout / "blobs/sha256" / BUILT.layer_digests[0].removeprefix("sha256:")
    index = layout / "index.json"
    match how:
        case "no index":
            index.unlink()
        case "index is a directory":
            index.unlink()
            index.mkdir()
        case "index is a fifo":
            index.unlink()
            os.mkfifo(index)
        case "huge index":
            index.write_text(" " * (5 * 1024**2))
        case "index is no list":
            index.write_text('{"manifests": {}}')
        case "blob is missing":
            blob.unlink()
        case "blob is a fifo":
            blob.unlink()
            os.mkfifo(blob)
        case "blob is a device":
            blob.unlink()
            blob.symlink_to("/dev/zero")
        case "digest is a path":
            value = json.loads(index.read_text())
            value["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
            index.write_text(json.dumps(value))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "how",
    ["no index", "index is a directory", "index is a fifo", "huge index", "index is no list", "blob is missing", "blob is a fifo",
    "blob is a device",
     "digest is a path"],
)  # fmt: skip
def test_broken_layout_is_the_users_error(store: paths.Store, tmp_path: Path, how: str) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    break_layout(tmp_path / "layout", how)
    with pytest.raises(UserError):
        ensure(store, f"oci:{tmp_path}/layout")


@pytest.mark.parametrize("which", [BUILT.layer_digests[0], BUILT.config_digest, BUILT.digest])
def test_layout_that_lies_about_content_is_refused(store: paths.Store, tmp_path: Path, which: str) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    blob = tmp_path / "layout/blobs/sha256" / which.removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises((InfraError, UserError)):
        ensure(store, f"oci:{tmp_path}/layout")
    assert which not in stores.blobs(store)


def test_docker_archive_is_read(store: paths.Store, tmp_path: Path) -> None:
    images.write_docker_archive(tmp_path / "a.tar", PLAIN, "team/app:1")
    for source in (
        f"docker-archive:{tmp_path}/a.tar",
        f"docker-archive:{tmp_path}/a.tar:team/app:1",
        f"docker-archive:{tmp_path}/a.tar:docker.io/team/app:1",
    ):
        image = ensure(store, source)
        assert (image.config_digest, tuple(layer.diff_id for layer in image.layers)) == (PLAIN.config_digest, PLAIN.diff_ids)
        assert {layer.blob.media_type for layer in image.layers} == {"application/vnd.oci.image.layer.v1.tar"}
        assert image.digest in stores.blobs(store)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers_in_an_archive_are_known_by_their_content(store: paths.Store, tmp_path: Path, compression: str) -> None:
    built = images.build_image(LAYERS, compression=compression)
    images.write_docker_archive(tmp_path / "a.tar", built)
    image = ensure(store, f"docker-archive:{tmp_path}/a.tar")
    assert {layer.blob.media_type for layer in image.layers} == {f"application/vnd.oci.image.layer.v1.tar+{compression}"}
    assert tuple(layer.blob.digest for layer in image.layers) == built.layer_digests


def test_compressed_archive_is_read(store: paths.Store, tmp_path: Path) -> None:
    images.write_docker_archive(tmp_path / "a.tar", PLAIN)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    assert ensure(store, f"docker-archive:{tmp_path}/a.tar.gz").config_digest == PLAIN.config_digest


def test_archives_of_skopeo_are_read(store: paths.Store, tmp_path: Path) -> None:
    images.write_oci_layout(tmp_path / "layout", BUILT, "v1")
    copy = ["skopeo", "--insecure-policy", "copy", f"oci:{tmp_path}/layout:v1", f"docker-archive:{tmp_path}/a.tar:team/app:1"]
    subprocess.run(copy, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
    image = ensure(store, f"docker-archive:{tmp_path}/a.tar:team/app:1")
    assert tuple(layer.diff_id for layer in image.layers) == BUILT.diff_ids


def test_repeated_layer_written_as_a_link_is_found(store: paths.Store, tmp_path: Path) -> None:
    built = images.build_image([LAYERS[0], LAYERS[0]], compression="none")
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}]
    entries = [
        file("c.json", built.blobs[built.config_digest]),
        file("manifest.json", json.dumps(manifest).encode()),
        file("1/layer.tar", built.blobs[built.layer_digests[0]]),
        images.symlink("2/layer.tar", "../1/layer.tar"),
    ]
    (tmp_path / "a.tar").write_bytes(images.tar(entries))
    assert len(ensure(store, f"docker-archive:{tmp_path}/a.tar").layers) == 2


def test_name_chooses_in_an_archive(store: paths.Store, tmp_path: Path) -> None:
    other = images.build_image([LAYERS[1]], compression="none")
    images.write_docker_archive_of(tmp_path / "a.tar", [(PLAIN, "app:1"), (other, "app:2")])
    assert ensure(store, f"docker-archive:{tmp_path}/a.tar:app:2").config_digest == other.config_digest
    for source in (f"docker-archive:{tmp_path}/a.tar", f"docker-archive:{tmp_path}/a.tar:app:3"):
        with pytest.raises(UserError) as caught:
            ensure(store, source)
        assert "app:1, app:2" in caught.value.hint


def archive_with(tmp_path: Path, *entries: images.TarEntry) -> str:
    (tmp_path / "a.tar").write_bytes(images.tar(entries))
    return f"docker-archive:{tmp_path}/a.tar"


CONFIG = file("c.json", PLAIN.blobs[PLAIN.config_digest])
CHOSEN = file("manifest.json", b'[{"Config":"c.json","RepoTags":["x:1"],"Layers":["1","2"]}]')


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [file("manifest.json", b"{")],
        [file("manifest.json", b"[7]")],
        [file("manifest.json", b"[]")],
        [file("manifest.json", b"[" * 100_000)],
        [file("manifest.json", b" " * (5 * 1024**2))],
        [file("manifest.json", b'[{"Config":7,"Layers":[]}]')],
        [CHOSEN],
        [CHOSEN, CONFIG],
        [CHOSEN, CONFIG, file("1", b"x")],
        [CHOSEN, CONFIG, images.symlink("1", "/etc/passwd"), images.symlink("2", "../../etc/passwd")],
        [CHOSEN, CONFIG, images.symlink("1", "1"), images.symlink("2", "1")],
        [CHOSEN, images.symlink("c.json", "/etc/passwd")],
        [file("manifest.json", b'[{"Config":"c.json","Layers":["1"]}]'), CONFIG, file("1", b"x")],
    ],
)
def test_broken_archive_is_the_users_error(store: paths.Store, tmp_path: Path, entries: list[images.TarEntry]) -> None:
    with pytest.raises(UserError):
        ensure(store, archive_with(tmp_path, *entries))
    assert stores.blobs(store) == set()


def test_archive_with_another_layer_than_its_config_says_is_refused(store: paths.Store, tmp_path: Path) -> None:
    source = archive_with(tmp_path, CHOSEN, CONFIG, file("1", PLAIN.blobs[PLAIN.layer_digests[0]]), file("2", b"\0" * 1024))
    with pytest.raises(InfraError, match="other content"):
        ensure(store, source)


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b broken", b"\0" * 10_000])
def test_file_that_is_no_archive_is_the_users_error(store: paths.Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError):
        ensure(store, f"docker-archive:{tmp_path}/a.tar")


def test_truncated_archive_is_an_error(store: paths.Store, tmp_path: Path) -> None:
    images.write_docker_archive(tmp_path / "a.tar", PLAIN)
    for name, how in (("a.tar", lambda raw: raw), ("a.tgz", gzip.compress)):
        raw = how((tmp_path / "a.tar").read_bytes())
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises((UserError, InfraError)):
            ensure(store, f"docker-archive:{tmp_path}/{name}")
