"""Unpacked layers: made in a real user namespace of the account's first slice, and looked at alone or stacked by overlayfs."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.image import below, bounds, unpack
from runner.kernel import accounts, files, syscalls, userns
from runner.model import Account, BuildUser, IdMap
from runner.sandbox import build_users


class Node(NamedTuple):
    """One entry of a tree; ids are the container's, `text` is a file's content or a link's target."""

    kind: str  # file | directory | symlink | fifo | whiteout, or ghost: listed, and not there
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    text: str = ""
    mtime_ns: int = 0
    xattrs: Mapping[str, str] = {}
    inode: int = 0


Tree = dict[str, Node]


def account() -> Account:
    return accounts.current()


def first_user() -> BuildUser:
    return BuildUser("test", 0, *build_users.available(account())[0])


def isolated() -> IdMap:
    return first_user().isolated_map()


def keeper() -> IdMap:
    return first_user().keeper_map(account())


def in_keeper(function: Callable[[], Any]) -> Any:
    """Run where files of the account (0) and of its slice (1…) can be managed and things be mounted."""

    def inside() -> Any:
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        return function()

    return userns.call(keeper(), inside, flags=syscalls.CLONE_NEWNS)


def unpack_tar(raw: bytes, directory: Path, *, limits: bounds.Bounds = bounds.DEFAULT, lower: Sequence[Path] = ()) -> list[str]:
    """Unpack a layer as the product does, over the layers `lower` (topmost first); return its directories without a description."""

    def make() -> None:
        directory.mkdir()
        os.chown(directory, 1, 1)

    in_keeper(make)
    root, *lowers = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (directory, *lower))
    try:
        return [str(path) for path in userns.call(isolated(), lambda: fill(raw, root, limits, lowers))]
    finally:
        for fd in (root, *lowers):
            os.close(fd)


def fill(raw: bytes, root: int, limits: bounds.Bounds, lowers: list[int]) -> list[str]:
    """Unpack right here into the descriptor `root`."""
    implicit = unpack.Tree(root, "layer 1", limits).fill(raw[at : at + 10_000] for at in range(0, len(raw), 10_000))
    below.inherit(root, implicit, lowers)
    return [os.fsdecode(path) for path in implicit]


def fill_here(raw: bytes, directory: Path, lower: Sequence[Path]) -> None:
    """Unpack right here into a directory, over the layers `lower` (topmost first)."""
    root, *lowers = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (directory, *lower))
    fill(raw, root, bounds.DEFAULT, lowers)
    for fd in (root, *lowers):
        os.close(fd)


def remove_all(directory: Path) -> None:
    """Remove right here what a directory holds, whoever owns it."""
    for name in os.listdir(directory):
        files.remove_tree(str(directory / name))


def look(directory: Path) -> Tree:
    """Return everything below a directory, and itself as ""."""
    return {path: Node(*node) for path, node in in_keeper(lambda: scan(directory, first_id=1)).items()}


def stacked(layers: Sequence[Path], empty: Path) -> Tree:
    """Return what overlayfs shows of layers, topmost first; `empty` is a directory that is made."""
    empty.mkdir()
    return {path: Node(*node) for path, node in in_keeper(lambda: scan_overlay(layers, empty, first_id=1)).items()}


def scan_overlay(layers: Sequence[Path], empty: Path, *, first_id: int) -> Tree:
    """Mount layers right here, over an empty directory since a single one is refused, and scan the result."""
    syscalls.mount("tmpfs", str(empty), "tmpfs")
    for name in ("lowest", "merged"):
        (empty / name).mkdir()
    lowers = ":".join(map(str, [*layers, empty / "lowest"]))
    syscalls.mount("overlay", str(empty / "merged"), "overlay", syscalls.MS_RDONLY, f"userxattr,lowerdir={lowers}")
    return scan(empty / "merged", first_id=first_id)


def scan(directory: Path, *, first_id: int) -> Tree:
    """Look right here; `first_id` is what the container's id 0 is seen as."""
    found = {"": _node(os.fspath(directory), first_id)}
    for parent, directories, others in os.walk(directory):
        for name in [*directories, *others]:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, directory)] = _node(path, first_id)
    return found


def _node(path: str, first_id: int) -> Node:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return Node("ghost")
    text = ""
    if stat.S_ISREG(info.st_mode) and info.st_size < 100_000:
        text = Path(path).read_bytes().decode("latin-1")
    elif stat.S_ISLNK(info.st_mode):
        text = os.readlink(path)
    names = [] if stat.S_ISLNK(info.st_mode) else os.listxattr(path, follow_symlinks=False)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
    mode = stat.S_IMODE(info.st_mode)
    return Node(_kind(info), mode, info.st_uid - first_id, info.st_gid - first_id, text, info.st_mtime_ns, xattrs, info.st_ino)


def _kind(info: os.stat_result) -> str:
    if stat.S_ISCHR(info.st_mode):
        return "whiteout" if info.st_rdev == 0 else "device"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    return kinds[stat.S_IFMT(info.st_mode)]
