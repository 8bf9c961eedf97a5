"""Collecting what nobody needs: blobs and layers that no stored image names."""

from runner import errors, paths
from runner.image import blobs, images, layers
from runner.job import state
from runner.kernel import locks


def collect(store: paths.Store) -> int:
    """Delete the blobs and unpacked layers that no stored image and no job needs; return the bytes freed. Safe beside pulls and jobs."""
    with locks.hold(store.images_lock):
        kept = [image for _, image in images.all(store)]
        freed = blobs.collect(store, keep={descriptor.digest for image in kept for descriptor in images.blobs_of(image)})
    names = {name for image in kept for name in layers.names_of(image)}
    return freed + layers.collect(store, keep=names, is_needed=lambda: _is_any_alive(store))


def _is_any_alive(store: paths.Store) -> bool:
    """Tell whether some job may use layers. An unreadable one may: gc.reap leaves only those of other versions that run."""
    for key in state.keys(store):
        try:
            job = state.load(store, key)
        except errors.RunnerError:
            return True
        if job is not None and state.is_alive(store, job):
            return True
    return False
