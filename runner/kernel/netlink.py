"""Network devices, addresses and packet filters of the current network namespace, through iproute2 and nftables.

Both are already needed on the machine, take a batch in one start of 2-4 ms, and explain their errors; a netlink library in Python costs
130 ms to import for the same dozen messages.
"""

from __future__ import annotations

from runner.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def start_ip() -> process.Running:
    """Start an ip(8) in this network namespace; it waits for the commands that `finish_ip` gives it, because its start is what lasts."""
    return process.start(["ip", "-batch", "-"], input=None)


def finish_ip(started: process.Running, commands: Sequence[str]) -> None:
    """Run commands (without the leading "ip"), stopping at the first that fails. Raises process.Failed."""
    started.finish(input=("\n".join(commands) + "\n").encode())


def start_nft(ruleset: str) -> process.Running:
    """Begin to load an nftables ruleset (nft(8) syntax) as one transaction; its `finish` raises process.Failed."""
    return process.start(["nft", "-f", "-"], input=ruleset.encode())


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of this network namespace but loopback's, in order. Raises OSError.

    They are the local table's, so that addresses are there which no device shows (ip-route(8), type local).
    """
    with open("/proc/net/fib_trie", encoding="ascii") as file:
        lines = file.read().splitlines()
    found = {lines[at - 1].rpartition(" ")[2] for at, line in enumerate(lines) if line.endswith("/32 host LOCAL")}
    return sorted(address for address in found if not address.startswith("127."))


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
