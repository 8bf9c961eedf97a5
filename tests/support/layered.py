"""A store that unpacks layers in a test: what it was asked for, what lies in it, and its end."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner import paths
from runner.image import layers
from runner.model import IdMap, Image
from tests.support import stores, trees


@contextmanager
def emptied(root: Path) -> Iterator[paths.Store]:
    """Make a store, and in the end remove the layers in it, which only a namespace with their owners can."""
    store = stores.make(root)
    try:
        yield store
    finally:
        trees.in_keeper(lambda: trees.remove_all(Path(store.layers)))


@contextmanager
def on_small_disk(target: Path, options: str) -> Iterator[paths.Store]:
    """Make a store on a tmpfs of its own, reached through a descriptor: the mount is in another process's namespace."""
    target.mkdir()
    code = f"""
import sys
from runner.kernel import syscalls
from tests.support import trees
def mount():
    syscalls.mount("tmpfs", {str(target)!r}, "tmpfs", 0, {options + ",mode=700"!r})
    print(__import__("os").getpid(), flush=True)
    sys.stdin.read()
trees.in_keeper(mount)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        pid = int(holder.stdout.readline())
        root = os.open(f"/proc/{pid}/root{target}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield stores.make(Path(f"/proc/self/fd/{root}/store"))
        finally:
            os.close(root)


def free(store: paths.Store) -> tuple[int, int]:
    """Return the blocks and the inodes that are free where a store is."""
    room = os.statvfs(store.root)
    return room.f_bfree, room.f_ffree


def unpacked(store: paths.Store, image: Image, id_map: IdMap | None = None) -> list[Path]:
    """Return the layers of an image, topmost first; without a map for a slice of its own."""
    return [Path(path) for path in layers.lower_directories(image, id_map or trees.isolated(), store=store)]


def left(store: paths.Store) -> set[str]:
    """Return the names of what lies in the directories of all maps, besides the maps' records, seals and locks."""
    found = {path.name for path in Path(store.layers).glob("*/*") if path.suffix != ".lock"} - {"map.json"}
    return {name for name in found if name.removesuffix(".seal") == name or name.removesuffix(".seal") not in found}


def short(digest: str) -> str:
    """Return what a directory is called after a digest."""
    return digest.removeprefix("sha256:")[:24]
