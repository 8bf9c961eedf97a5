"""A store to fill, and a look at what is left in one."""

import os
from pathlib import Path

from runner import paths
from runner.kernel import files


def make(root: Path) -> paths.Store:
    """Make an empty store."""
    store = paths.Store(str(root))
    for directory in store.directories():
        files.make_directory(directory)
    return store


def blobs(store: paths.Store) -> set[str]:
    """Return the digests of the blobs that are there."""
    return {f"sha256:{name}" for name in os.listdir(store.blobs)}


def leftovers(store: paths.Store) -> list[str]:
    """Return what unfinished downloads left."""
    return os.listdir(store.partial)
