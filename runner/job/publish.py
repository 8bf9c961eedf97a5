"""Ports of containers on the host: slirp4netns listens there, and the router passes on what comes.

It can only be told to forward to its own end of the wire, so every published port has a number
there, and the router's rules say whose it is.
"""

from __future__ import annotations

from runner import errors, paths
from runner.job import keeper
from runner.kernel import netlink
from runner.record import NamedTuple
from runner.sandbox import network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.job.state import JobState

LOOPBACK = "127.0.0.1"
_FIRST = 10000  # of the numbers on the wire
_TRIES = 5


class Port(NamedTuple):
    """A port of a container, and where the host has it: `host` 0 is any free one. `protocol` is "tcp" or "udp"."""

    container: str
    number: int
    host: int = 0
    address: str = LOOPBACK
    protocol: str = "tcp"


def publish(current: JobState, ports: Sequence[Port], addresses: network.Addresses) -> list[int]:
    """Publish ports of a job that was made with `publishes`, and return their numbers on the host, in order. Call once for a job.

    UserError for a port that cannot be had. They end with the job.
    """
    if not ports:
        return []
    targets = [current.container(port.container).ip for port in ports]
    script = rules(ports, targets)

    def pass_on() -> None:
        netlink.start_nft(script).finish()

    keeper.call(current.keeper, pass_on)
    return [_forward(current, port, _FIRST + index, addresses) for index, port in enumerate(ports)]


def rules(ports: Sequence[Port], targets: Sequence[str]) -> str:
    """Return the nftables rules that pass on what comes in at the wire: one number there for each port, in order."""
    lines = [
        f'    iifname "{uplink.DEVICE}" {port.protocol} dport {_FIRST + index} dnat to {target}:{port.number}'
        for index, (port, target) in enumerate(zip(ports, targets, strict=True))
    ]
    return (
        "table ip dockless_published {\n  chain prerouting {\n    type nat hook prerouting priority -100;\n"
        + "\n".join(lines)
        + "\n  }\n}\n"
        "insert rule inet dockless forward ct status dnat accept\n"
    )


def _forward(current: JobState, port: Port, wire: int, addresses: network.Addresses) -> int:
    problem = ""
    for _ in range(1 if port.host else _TRIES):
        number = port.host or _free(port)
        order = {
            "execute": "add_hostfwd",
            "arguments": {
                "proto": port.protocol, "host_addr": port.address, "host_port": number,
                "guest_addr": uplink.own_address(addresses), "guest_port": wire,
            },
        }  # fmt: skip
        problem = str(keeper.call(current.keeper, _ordering(order)))
        if not problem:
            return number
    hint = "another program or job has it: write only the container's port, and any free one is taken"
    if 0 < port.host < _lowest():
        hint = f"ports below {_lowest()} are root's: as root, `sysctl net.ipv4.ip_unprivileged_port_start=80`"
    raise errors.UserError(f"port {port.host or port.number} of the host cannot be published at {port.address}: {problem}", hint)


def _lowest() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _free(port: Port) -> int:
    """Return a port that nobody has right now; somebody may take it before we do."""
    import socket  # 3 ms: for jobs that publish ports

    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((port.address, 0))
            return int(probe.getsockname()[1])
    except OSError as e:
        raise errors.UserError(f"address {port.address} is not this machine's: {e.strerror}", "leave it out: it is 127.0.0.1 then") from e


def _ordering(order: Mapping[str, object]) -> Callable[[], str]:
    return lambda: _order(order)


def _order(order: Mapping[str, object]) -> str:
    """Give slirp4netns one order (slirp4netns(1), API SOCKET) and return what is wrong, "" for nothing."""
    import json
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(paths.UPLINK_SOCKET)
        connection.sendall(json.dumps(order).encode())
        connection.shutdown(socket.SHUT_WR)
        raw = b""
        while chunk := connection.recv(4096):
            raw += chunk
    try:
        answer = json.loads(raw)
    except ValueError:
        return "slirp4netns gives no answer"
    return str(answer["error"].get("desc", "refused")) if "error" in answer else ""
