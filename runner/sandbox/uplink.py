"""The way out of a job's network: slirp4netns, which needs no privilege and keeps the host's own loopback closed."""

from runner.kernel import files
from runner.sandbox.network import Addresses

DEVICE = "tap0"


def slirp_argv(*, pid: int, mtu: int, addresses: Addresses, ready_fd: int, socket: str = "") -> list[str]:
    """Return the command that connects the network namespace of `pid` and writes "1" to `ready_fd` when it works.

    It stays in the foreground. At the Unix socket `socket`, if one is named, it takes orders to forward ports of the host.
    With --enable-sandbox and --enable-seccomp a flaw in its packet parser meets an empty file system.
    """
    return [
        "slirp4netns", "--configure", f"--mtu={mtu}", f"--cidr={addresses.uplink}", "--disable-host-loopback",
        "--enable-sandbox", "--enable-seccomp", f"--ready-fd={ready_fd}",
        *((f"--api-socket={socket}",) if socket else ()), str(pid), DEVICE,
    ]  # fmt: skip


def own_address(addresses: Addresses) -> str:
    """Return the address that slirp4netns' --configure gives the router."""
    return f"{addresses.uplink.rpartition('.')[0]}.100"


def resolv_conf(addresses: Addresses, dns: tuple[str, ...], *, host_file: str = "/etc/resolv.conf") -> str:
    """Return a container's resolv.conf: the chosen servers, else slirp4netns' forwarder, with the host's search list and options."""
    servers = dns or (addresses.resolver,)
    kept = []
    try:
        lines = files.read(host_file, limit_bytes=64 * 1024).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if words and words[0] in ("search", "options") and line.isprintable():
            kept.append(" ".join(words))
    return "".join(f"{line}\n" for line in [*kept, *(f"nameserver {server}" for server in servers)])
