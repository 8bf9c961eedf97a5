"""A store to fill, and a look at what is left in one."""

import os
from pathlib import Path

from runner import paths
from runner.kernel import files
from runner.model import Descriptor, Image, ImageConfig, Layer
from tests.support.images import BuiltImage


def make(root: Path) -> paths.Store:
    """Make an empty store."""
    store = paths.Store(str(root))
    for directory in store.directories():
        files.make_directory(directory)
    return store


def add(store: paths.Store, built: BuiltImage, name: str = "test") -> Image:
    """Put an image's blobs into a store, and return it as a pull would, without putting it on record."""
    for digest, data in [*built.blobs.items(), *((digest, raw) for digest, (_, raw) in built.manifests.items())]:
        Path(store.blob(digest)).write_bytes(data)
    descriptors = [Descriptor("", digest, len(built.blobs[digest])) for digest in built.layer_digests]
    layers = tuple(Layer(blob, diff_id) for blob, diff_id in zip(descriptors, built.diff_ids, strict=True))
    size = sum(blob.size for blob in descriptors)
    return Image(name, built.digest, built.config_digest, layers, ImageConfig(), "linux/amd64", size)


def blobs(store: paths.Store) -> set[str]:
    """Return the digests of the blobs that are there."""
    return {f"sha256:{name}" for name in os.listdir(store.blobs)}


def leftovers(store: paths.Store) -> list[str]:
    """Return what unfinished downloads left."""
    return os.listdir(store.partial)
