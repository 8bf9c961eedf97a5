"""Overlay options as a value, and mount points that an image cannot lead outside its root."""

import os
import stat
from pathlib import Path

import pytest

from runner import errors
from runner.sandbox import rootfs

OWNER = (os.getuid(), os.getgid())


def test_layers_of_one_directory_are_named_relative_to_it() -> None:
    overlay = rootfs.Overlay(("/s/layers/m/bb", "/s/layers/m/aa"), "/s/jobs/j/containers/c", "/run/c/root")
    assert overlay.working_directory() == "/s/layers/m"
    assert overlay.options().startswith("lowerdir=bb:aa,upperdir=/s/jobs/j/containers/c/upper,")


def test_separators_in_paths_are_escaped() -> None:
    overlay = rootfs.Overlay(("/a:b/l1",), "/x,y/c", "/t")
    assert overlay.working_directory() == "/a:b"
    assert "upperdir=/x\\,y/c/upper" in overlay.options()


def test_127_layers_fit_into_a_page() -> None:
    lowers = tuple(f"/var/lib/dockless/layers/s165536/{number:024x}" for number in range(127))
    overlay = rootfs.Overlay(lowers, "/var/lib/dockless/jobs/gitlab-1f3a-4711/containers/build", "/t")
    assert len(overlay.options()) < 4096


@pytest.fixture
def root(tmp_path: Path) -> tuple[int, Path]:
    directory = tmp_path / "root"
    directory.mkdir()
    return os.open(directory, os.O_PATH | os.O_DIRECTORY), directory


def test_mount_point_is_made_with_its_parents(root: tuple[int, Path]) -> None:
    fd, path = root
    rootfs.make_mount_point(fd, "/a/b/c", directory=False, owner=OWNER)
    assert stat.S_ISREG((path / "a/b/c").stat().st_mode)


def test_absolute_link_of_the_image_stays_inside(root: tuple[int, Path], tmp_path: Path) -> None:
    fd, path = root
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / "etc").symlink_to(outside)
    with pytest.raises(errors.UserError):
        rootfs.make_mount_point(fd, "/etc/hosts", directory=False, owner=OWNER)
    assert list(outside.iterdir()) == []


def test_link_within_the_image_is_followed(root: tuple[int, Path]) -> None:
    fd, path = root
    (path / "usr").mkdir()
    (path / "lib").symlink_to("/usr")
    rootfs.make_mount_point(fd, "/lib/x", directory=True, owner=OWNER)
    assert (path / "usr/x").is_dir()


def test_file_where_a_directory_is_needed_is_refused(root: tuple[int, Path]) -> None:
    fd, path = root
    (path / "builds").write_text("")
    with pytest.raises(errors.UserError, match="not a directory"):
        rootfs.make_mount_point(fd, "/builds", directory=True, owner=OWNER)


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_image_with_a_link_for_a_kernel_directory_is_refused(root: tuple[int, Path], name: str) -> None:
    fd, path = root
    rootfs.check(fd)
    (path / name).symlink_to("/etc")
    with pytest.raises(errors.UserError, match=f"/{name} is not a directory"):
        rootfs.check(fd)
