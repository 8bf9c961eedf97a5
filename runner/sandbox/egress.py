"""What a job may reach outside of itself: the configured policy as nftables rules of its router, past which none of its containers gets.

What is enforced are addresses. A name in the configuration is looked up when the job is made; whatever a name of the job's own resolves to,
the packet's address decides. So a name that leads to the metadata service or to the host itself leads nowhere, allowed or not.
"""

from __future__ import annotations

from runner import errors, log
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.config import Egress
    from runner.sandbox.network import Addresses

HOST = "host"  # in the configuration: every address of the machine itself
# never reached unless the configuration names a network within them, or `host`, by itself
_REFUSED = (
    "0.0.0.0/8", "127.0.0.0/8",  # to the kernel martians, which it does not forward: slirp4netns would take them for its own loopback
    "169.254.0.0/16",  # link-local, where clouds hand out credentials of the machine
    "100.100.100.200/32", "168.63.129.16/32",  # the same elsewhere: Alibaba Cloud's metadata service, Azure's WireServer
)  # fmt: skip
_REJECT = "reject with icmpx type admin-prohibited"  # at once, so that nothing hangs


class Rule(NamedTuple):
    """One destination of a list."""

    network: str  # "10.0.0.0/8" or HOST
    ports: str = ""  # "443", "8000-8080"; "" is everything
    is_name: bool = False  # an answer of a name server, which whoever owns the name chose


class Policy(NamedTuple):
    """What a job's router lets out: what is allowed, but what is denied, and of the rest everything or, if `closed`, nothing."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    closed: bool = False


def policy(asked: Egress) -> Policy:
    """Return the policy of a configuration with its names looked up, which may take a while; names are the exception.

    A name that is to be allowed and has no address is left out with a warning. InfraError for one that is to be denied.
    """
    return Policy(_rules(asked.allow, denied=False), _rules(asked.deny, denied=True), closed=asked.policy == "none")


def _rules(texts: Iterable[str], *, denied: bool) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for text in texts:
        host, _, ports = text.partition(":")
        if host == HOST or "/" in host:
            found.append(Rule(host, ports))
            continue
        addresses = _look_up(host)
        if not addresses and denied:
            raise errors.InfraError(f"name {host} of network.egress.deny has no address now", "is the host's name server down?")
        if not addresses:
            log.warn(f"name {host} of network.egress.allow has no address now: the job will not reach it")
        found += [Rule(f"{address}/32", ports, is_name=True) for address in addresses]
    return tuple(found)


def _look_up(name: str) -> list[str]:
    import socket  # 3 ms: for those who configure names

    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)})
    except OSError:
        return []


def rules(asked: Policy, addresses: Addresses, own: Sequence[str]) -> list[str]:
    """Return the rules for what leaves the job; `own` are the machine's own addresses."""
    refused = [*_REFUSED, *(f"{address}/32" for address in own if not _is_within(f"{address}/32", _REFUSED))]
    # a network that lies within what is refused was meant, one that is larger was not, and a name may be anybody's
    exceptions = [rule for rule in asked.allow if not rule.is_name and any(_is_within(part, refused) for part in _parts(rule, own))]
    lines = [f"meta nfproto ipv6 {_REJECT}"]  # there is no way out for it, but for the day when there is
    if not asked.closed or any(rule.is_name for rule in asked.allow):
        lines.append(f"ip daddr {addresses.resolver} meta l4proto {{ tcp, udp }} th dport 53 accept")
    # slirp4netns itself: other ports of its resolver are those of the host's name server, which is often the host
    lines.append(f"ip daddr {addresses.uplink} {_REJECT}")
    lines += _verdicts(exceptions, own, "accept")
    lines.append(f"ip daddr {{ {', '.join(refused)} }} {_REJECT}")
    lines += _verdicts([rule for rule in asked.allow if rule not in exceptions], own, "accept")
    lines += _verdicts(asked.deny, own, _REJECT)
    return [*lines, _REJECT] if asked.closed else lines


def _verdicts(wanted: Iterable[Rule], own: Sequence[str], verdict: str) -> list[str]:
    return [
        f"ip daddr {part} {f'meta l4proto {{ tcp, udp }} th dport {rule.ports} ' if rule.ports else ''}{verdict}"
        for rule in wanted
        for part in _parts(rule, own)
    ]


def _parts(rule: Rule, own: Sequence[str]) -> list[str]:
    return [f"{address}/32" for address in own] if rule.network == HOST else [rule.network]


def _is_within(network: str, others: Iterable[str]) -> bool:
    first, bits = _numbers(network)
    return any(bits >= wide and first >> (32 - wide) == start >> (32 - wide) for start, wide in map(_numbers, others))


def _numbers(network: str) -> tuple[int, int]:
    address, _, bits = network.partition("/")
    return int.from_bytes(bytes(int(octet) for octet in address.split(".")), "big"), int(bits)
