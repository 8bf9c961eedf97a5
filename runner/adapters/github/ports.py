"""`ports:` as docker's -p takes them: [[ADDRESS:]HOST:]CONTAINER[/PROTOCOL], each number also as a range."""

from __future__ import annotations

from runner.errors import UserError
from runner.job.publish import LOOPBACK, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 256


def parse(container: str, texts: Iterable[str]) -> list[Port]:
    """Return the ports of one container. UserError for what is none."""
    found = [port for text in texts for port in _parse(container, text)]
    if len(found) > _MOST:
        raise UserError(f"container {container} publishes {len(found)} ports", f"at most {_MOST} can be published")
    return list(dict.fromkeys(found))


def _parse(container: str, text: str) -> list[Port]:
    mapping, _, protocol = text.partition("/")
    address, colon, rest = mapping.rpartition("]:") if mapping.startswith("[") else ("", "", mapping)
    if colon:
        raise UserError(f"port {text!r} cannot be published: addresses are IPv4", "write 127.0.0.1:HOST:CONTAINER")
    parts = rest.split(":")
    if len(parts) > 3 or protocol not in ("", "tcp", "udp"):
        raise UserError(f"port {text!r} cannot be published", "write [[ADDRESS:]HOST:]CONTAINER[/udp]")
    address = (parts[0] if len(parts) == 3 else "") or LOOPBACK
    inside = _range(parts[-1], text)
    outside = _range(parts[-2], text) if len(parts) > 1 and parts[-2] not in ("", "0") else []
    if outside and len(outside) != len(inside):
        raise UserError(f"port {text!r} cannot be published: its ranges differ in length", "make them as long as each other")
    return [
        Port(container, number, outside[index] if outside else 0, address, protocol or "tcp")
        for index, number in enumerate(inside)
    ]  # fmt: skip


def _range(text: str, whole: str) -> list[int]:
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    if not all(end.isascii() and end.isdigit() and len(end) < 6 and 0 < int(end) < 65536 for end in ends):
        raise UserError(f"port {whole!r} cannot be published: {text!r} is no port", "write numbers from 1 to 65535")
    low, high = map(int, ends)
    if not low <= high < low + _MOST:
        raise UserError(f"port {whole!r} cannot be published: {text!r} is no range", f"at most {_MOST} ports can be published")
    return list(range(low, high + 1))
