"""What every job of one process shares: the store, the configuration and the account."""

from __future__ import annotations

from runner import paths
from runner.config import Settings
from runner.kernel import netlink
from runner.model import Account
from runner.record import NamedTuple


class Surroundings(NamedTuple):
    """Where jobs of this process are made."""

    store: paths.Store
    settings: Settings
    account: Account

    def mtu(self) -> int:
        """Return the MTU of jobs' networks: the configured one, or that of the host's way out."""
        return self.settings.network.mtu or netlink.default_route_mtu()
