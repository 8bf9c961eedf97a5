"""Collecting what nobody needs: blobs and layers that no stored image names."""

from runner import paths
from runner.image import blobs, images, layer_names, layer_store
from runner.job import live
from runner.kernel import locks


def collect(store: paths.Store) -> int:
    """Delete the blobs and unpacked layers that no stored image and no job needs; return the bytes freed. Safe beside pulls and jobs."""
    with locks.hold(store.images_lock):
        kept = [image for _, image in images.all(store)]
        freed = blobs.collect(store, keep={descriptor.digest for image in kept for descriptor in images.blobs_of(image)})
    names = {name for image in kept for name in layer_names.names_of(image)}
    return freed + layer_store.collect(store, keep=names, used=lambda: live.look(store).layers())
