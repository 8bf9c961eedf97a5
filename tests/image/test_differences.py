"""Two unpacked trees that differ in one thing: it is found and named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.image import differences
from tests.support import trees


def make(root: Path) -> None:
    (root / "d/deep").mkdir(parents=True)
    (root / "d/file").write_bytes(b"content")
    (root / "d/link").symlink_to("file")
    os.mkfifo(root / "d/fifo")
    os.link(root / "d/file", root / "d/deep/again")
    os.setxattr(root / "d/file", "user.mark", b"1")
    os.setxattr(root / "d", "user.overlay.opaque", b"y")
    os.chown(root / "d/deep", 8, 9)
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "content": (lambda root: rewrite(root / "d/file", b"Content"), "d/file has other content"),
    "size": (lambda root: rewrite(root / "d/file", b"longer content"), "another size"),
    "time": (lambda root: os.utime(root / "d/file", ns=(0, 0)), "another size, time"),
    "added": (lambda root: (root / "d/deep/new").touch(), "d/deep/new is only in the second"),
    "removed": (lambda root: (root / "d/link").unlink(), "d/link is only in the first"),
    "target": (lambda root: relink(root / "d/link", "deep"), "d/link has another target"),
    "kind": (lambda root: turn_into_directory(root / "d/fifo"), "d/fifo has another kind"),
    "mode": (lambda root: (root / "d/deep").chmod(0o700), "d/deep has another owner or mode"),
    "owner": (lambda root: os.chown(root / "d/deep", 8, 8), "d/deep has another owner or mode"),
    "mode of the root": (lambda root: root.chmod(0o700), "has another owner or mode"),
    "attribute": (lambda root: os.setxattr(root / "d/file", "user.mark", b"2"), "other attributes"),
    "opaque": (lambda root: os.removexattr(root / "d", "user.overlay.opaque"), "d has other attributes"),
}


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)
    os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def turn_into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def compare(tmp_path: Path, change: Callable[[Path], object]) -> str:
    def work() -> str:
        one, other = tmp_path / "one", tmp_path / "other"
        for root in (one, other):
            root.mkdir()
            make(root)
        change(other)
        found = differences.first(str(one), str(other))
        trees.remove_all(one)
        trees.remove_all(other)
        return found

    return str(trees.in_keeper(work))


def test_same_trees_have_no_difference(tmp_path: Path) -> None:
    assert compare(tmp_path, lambda root: None) == ""


@pytest.mark.parametrize("name", CHANGES)
def test_one_difference_is_found_and_named(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    assert words in compare(tmp_path, change)
