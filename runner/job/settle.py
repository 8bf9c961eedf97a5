"""When layers are made safe on the disk: some time after they were unpacked, by whoever comes by and is not waited for."""

import time

from runner import log, paths
from runner.image import settling

_OLD_S = 60.0  # by then the kernel has written most of it by itself (dirty_expire_centisecs)


def settle_old(store: paths.Store) -> None:
    """Settle the layers that were unpacked some time ago. One that cannot be loses its seal, and is unpacked again. Never raises."""
    try:
        settling.settle(store, unpacked_before=time.time() - _OLD_S)
    except OSError as e:
        log.warn(f"layers in {store.layers} cannot be written to the disk, and will be unpacked again: {e.strerror}")
