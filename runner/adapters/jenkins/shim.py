"""What every docker command needs: the caller's environment, the store, and what install-docker-shim wrote into the launcher."""

from __future__ import annotations

from runner.job.surroundings import Surroundings
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Shim(NamedTuple):
    """One call of the docker command. `roots` are the only directories that may be mounted; empty: all of the account's own."""

    around: Surroundings
    environ: Mapping[str, str]
    build_user: str
    roots: tuple[str, ...]
