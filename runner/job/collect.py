"""Collecting what nobody needs: blobs and layers that no stored image names."""

from runner import log, paths
from runner.image import blobs, images, layers
from runner.job import state
from runner.model import Account


def collect(store: paths.Store, account: Account) -> int:
    """Delete the blobs and unpacked layers that no stored image and no job needs; return the bytes freed. Safe beside pulls and jobs."""
    kept = [image for _, image in images.all(store)]
    freed = blobs.collect(store, keep={descriptor.digest for image in kept for descriptor in images.blobs_of(image)})
    if any(is_alive for _, is_alive in state.every(store)):
        log.debug("jobs are running: unpacked layers stay until they have ended")
        return freed
    return freed + layers.collect(store, account, keep={layer.diff_id for image in kept for layer in image.layers})
