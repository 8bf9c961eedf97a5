"""A job's network: a router (bridge, NAT, filter) in the keeper's namespace, and one endpoint for each container.

    container eth0 ── veth ── br0 ── NAT ── tap0 ── slirp4netns ── the host's network

Every job has a router, also that of a single container: with CAP_NET_RAW a container writes what it likes to its own device, past all
routes and filters of its own namespace, and slirp4netns itself refuses no address.

The router is planned as pure lists of ip(8) commands and nftables rules; what may leave it says sandbox.egress.
"""

from __future__ import annotations

from runner.kernel import netdevice
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE = "br0"


class Addresses(NamedTuple):
    """The addresses of one job's network; all jobs use the same, since none can see another's."""

    bridge: str  # "10.99.0.1"
    prefix: str  # "10.99.0."
    uplink: str  # "10.99.255.0/24", slirp4netns' own network
    resolver: str  # "10.99.255.3"

    def endpoint(self, index: int) -> str:
        """Return the address of the container with this number (0…251)."""
        if not 0 <= index < 252:
            raise ValueError("a job's network has room for 252 containers")
        return f"{self.prefix}{index + 2}"


def addresses(subnet: str) -> Addresses:
    """Divide a configured IPv4 subnet (/16 … /23): the first /24 is the job's, the last /24 the uplink's. ValueError otherwise."""
    base, _, length = subnet.partition("/")
    octets = base.split(".")
    if len(octets) != 4 or not all(o.isdecimal() and int(o) < 256 for o in octets) or not length.isdecimal():
        raise ValueError(f"not an IPv4 subnet: {subnet}")
    bits = int(length)
    if not 16 <= bits <= 23:
        raise ValueError(f"subnet {subnet} must be between /16 and /23")
    size = 1 << (24 - bits)  # in /24 networks
    first = int(octets[2]) & ~(size - 1)
    job, uplink = f"{octets[0]}.{octets[1]}.{first}.", f"{octets[0]}.{octets[1]}.{first + size - 1}."
    return Addresses(bridge=f"{job}1", prefix=job, uplink=f"{uplink}0/24", resolver=f"{uplink}3")


def router_commands(plan: Addresses, *, mtu: int) -> list[str]:
    """Return the ip commands that make the bridge."""
    return [
        "link set lo up",
        f"link add {BRIDGE} mtu {mtu} type bridge",
        f"addr add {plan.bridge}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]


def router_rules(device: str, egress: Sequence[str]) -> str:
    """Return the nftables ruleset: masquerade towards `device`, with the rules `egress` for what goes there; nothing in from outside.

    All packets are judged, not a connection's first: who writes its own packets makes connections that the router sees from the wrong side.
    """
    rules = "\n    ".join(egress)
    return f"""table inet dockless {{
  chain postrouting {{ type nat hook postrouting priority 100; oifname "{device}" masquerade; }}
  chain egress {{
    {rules}
  }}
  chain forward {{
    type filter hook forward priority 0;
    iifname "{device}" ct state new drop
    oifname "{device}" jump egress
  }}
  chain input {{
    type filter hook input priority 0;
    iifname "{device}" ct state new drop
  }}
}}
"""


def attach_command(index: int, *, pid: int, mtu: int) -> str:
    """Return the command, for the router, that gives the network namespace of `pid` an eth0 on the bridge."""
    return f"link add v{index} mtu {mtu} master {BRIDGE} up type veth peer name eth0 mtu {mtu} netns {pid}"


def configure_endpoint(plan: Addresses | None, index: int) -> None:
    """Configure, from within the endpoint itself, loopback and eth0; without a network there is only loopback."""
    netdevice.set_up("lo")
    if plan:
        netdevice.set_address("eth0", plan.endpoint(index), "255.255.255.0")
        netdevice.set_up("eth0")
        netdevice.add_default_route(plan.bridge)


ENDPOINT_SYSCTLS = (
    # docker's defaults: ping and low ports without capabilities
    ("net/ipv4/ping_group_range", "0 65535"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
)


def hosts(entries: list[tuple[str, tuple[str, ...]]]) -> str:
    """Return an /etc/hosts with localhost and (address, names) entries; names were checked by whoever made them."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{' '.join(names)}" for address, names in entries if names]
    return "\n".join(lines) + "\n"
