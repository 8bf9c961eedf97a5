"""How full the disk is: what every prepare looks at, without the rest of the collector."""

from __future__ import annotations

import os

from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner import paths


class Usage(NamedTuple):
    """How full a file system is, as df(1) counts: what only root may use is neither used nor available."""

    used_bytes: int
    available_bytes: int

    def is_above(self, percent: int, *, freed_bytes: int = 0) -> bool:
        """Tell whether it is fuller than `percent` once some bytes are free."""
        return (self.used_bytes - freed_bytes) * 100 > percent * (self.used_bytes + self.available_bytes)

    def percent(self) -> float:
        """Return how much of it is used."""
        return 100 * self.used_bytes / max(1, self.used_bytes + self.available_bytes)


def of(store: paths.Store) -> Usage:
    """Return how full the store's file system is."""
    info = os.statvfs(store.root)
    return Usage((info.f_blocks - info.f_bfree) * info.f_frsize, info.f_bavail * info.f_frsize)
