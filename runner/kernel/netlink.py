"""Network devices, addresses and packet filters of the current network namespace, through iproute2 and nftables.

Both are already needed on the machine, take a batch in one start of 2-4 ms, and explain their errors; a netlink library in Python costs
130 ms to import for the same dozen messages.
"""

from __future__ import annotations

from runner.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def ip_batch(commands: Sequence[str]) -> None:
    """Run `ip` commands (ip(8) without the leading "ip"), stopping at the first that fails. Raises process.Failed."""
    process.run(["ip", "-batch", "-"], input=("\n".join(commands) + "\n").encode())


def ip_and_nft(commands: Sequence[str], ruleset: str) -> None:
    """Run `ip` commands and, at the same time, load an nftables ruleset (nft(8) syntax) as one transaction. Raises process.Failed."""
    nft = process.start(["nft", "-f", "-"], input=ruleset.encode())
    try:
        ip_batch(commands)
    finally:
        nft.finish()


def default_route_mtu() -> int:
    """Return the MTU of the interface with the host's default IPv4 route, 1500 when there is none."""
    try:
        with open("/proc/net/route", encoding="utf-8") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        names = [row[0] for row in rows if len(row) > 7 and row[1] == "00000000" and row[7] == "00000000"]
        with open(f"/sys/class/net/{names[0]}/mtu", encoding="utf-8") as file:
            return int(file.read())
    except (OSError, IndexError, ValueError):
        return 1500
