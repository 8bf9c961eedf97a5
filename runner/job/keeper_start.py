"""Making a keeper: namespaces, id maps, the router and the uplink, before any container is there.

Until `commit` the keeper lives only as long as the process that started it (they share a pipe), so a crash half-way leaves nothing;
after that it is `sleep infinity` under another name, some hundred kilobytes that reap orphans because SIGCHLD is ignored.
"""

from __future__ import annotations

import os

from runner import errors, log, paths
from runner.job.endpoint import Endpoint, Inhabitant
from runner.job.keeper import NAMESPACES, Keeper, argv
from runner.kernel import boot, netdevice, netlink, process, signals, syscalls, userns
from runner.record import NamedTuple
from runner.sandbox import egress, network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runner.model import IdMap


class Request(NamedTuple):
    """What a keeper is started with."""

    name: str  # shown by ps
    keeper_map: IdMap  # 0 is the account
    container_map: IdMap  # outside ids are the host's
    addresses: network.Addresses | None  # None: no network at all
    mtu: int
    endpoint: Endpoint  # of the job's own containers
    egress: egress.Policy
    marks: tuple[tuple[str, str], ...] = ()  # its environment: who ends it ends the whole job
    publishes: bool = False  # ports of the host may be forwarded to it (job.publish)


_PINNED = b"\0"  # what goes before the last word about the network


class Starting:
    """A keeper that is being made, and the pipe that keeps it alive until `commit`.

    There are three things to wait for: `ready` means namespaces that can be entered, all but the network's, `pinned` those of the job's own
    containers, and `online` everything.
    """

    def __init__(self, child: int, answer: int, online: int, lifeline: int) -> None:
        self._child = child
        self._answer, self._online = answer, online
        self._lifeline = lifeline
        self._heard = b""  # about the network

    def ready(self) -> Keeper:
        """Wait until there is a keeper to enter. Raises InfraError with what failed. Call once, and then `online`."""
        try:
            pid = process.receive(self._child, self._answer)
        except OSError as e:
            raise _failed(e.strerror or str(e)) from e
        return Keeper(pid, process.start_time(pid), boot.boot_id())

    def pinned(self) -> None:
        """Wait until the endpoint of the job's own containers can be joined, though nothing answers there yet. Idempotent, before `online`.

        What failed is for `online` to say.
        """
        if not self._heard:
            self._heard = os.read(self._online, 1)

    def online(self) -> None:
        """Wait until the keeper has a network of its own, with a router and a way out. Raises InfraError with what failed. Call once."""
        with open(self._online, "rb") as file:
            words = (self._heard + file.read()).removeprefix(_PINNED)
        if words != b"ok":
            raise _failed(words.decode(errors="replace") or "it ended while it was being made")

    def commit(self) -> None:
        """Let the keeper outlive this process."""
        os.write(self._lifeline, b"c")
        self.close()

    def close(self) -> None:
        """Let go; without `commit` before, the keeper and its whole job end now. Idempotent."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def start(request: Request) -> Starting:
    """Start a keeper; returns at once, `Starting.ready` waits for it. The caller must be single-threaded."""
    lifeline_r, lifeline_w = os.pipe()
    answer_r, answer_w = os.pipe()
    online_r, online_w = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (lifeline_w, answer_r, online_r):
            os.close(fd)
        _outer(request, lifeline_r, answer_w, online_w)
    for fd in (lifeline_r, answer_w, online_w):
        os.close(fd)
    return Starting(child, answer_r, online_r, lifeline_w)


def _outer(request: Request, lifeline: int, answer: int, online: int) -> NoReturn:
    """Make the namespaces, fork the keeper into them, tell its pid once it is ready, and end."""

    def make() -> int:
        _leave_caller(keep=(lifeline, answer, online))
        ready_r, ready_w = os.pipe()
        userns.enter(request.keeper_map, NAMESPACES)
        pid = os.fork()
        if pid == 0:
            os.close(answer)
            os.close(ready_r)
            _inner(request, lifeline, ready_w, online)
        for fd in (ready_w, lifeline, online):
            os.close(fd)
        with open(ready_r, "rb") as file:
            words = file.read()
        if words != b"ok":
            os.waitpid(pid, 0)
            raise OSError(5, words.decode(errors="replace") or "the keeper ended while it was being made")
        return pid

    process.answer_and_exit(answer, make)


def _leave_caller(*, keep: tuple[int, ...]) -> None:
    """Leave the caller's session, directory and descriptors: an inherited stdout would hang the CI system."""
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    process.close_others(keep=(0, 1, 2, *keep))
    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT):
        signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


def _inner(request: Request, lifeline: int, ready: int, online: int) -> NoReturn:
    listener = ready
    try:
        _mount()
        os.write(ready, b"ok")
        os.close(ready)
        listener = online
        _connect(request, online)
        os.write(online, b"ok")
        os.close(online)
    except BaseException as e:  # the last word of this process: whatever it is must reach the caller
        os.write(listener, (getattr(e, "strerror", None) or str(e) or type(e).__name__).encode())
        os._exit(1)
    signals.signal(signals.SIGCHLD, signals.SIG_IGN)  # survives exec: the kernel reaps orphans by itself
    if os.read(lifeline, 1) != b"c":
        os._exit(0)
    # a keeper of an idle job should weigh nothing: the interpreter makes way for the smallest program there is
    os.execve("/usr/bin/sleep", argv(request.name), dict(request.marks))


def _mount() -> None:
    """Mount what the job's programs need."""
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "/proc", "proc", flags)
    # what is there may be the same file system, which mount(2) refuses on top of itself (EBUSY): something else goes between
    syscalls.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", flags)
    syscalls.mount("none", "/sys/fs/cgroup", "cgroup2", flags)
    syscalls.mount("tmpfs", paths.RUN, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
    for name in ("ns", "c"):
        os.mkdir(f"{paths.RUN}/{name}", 0o755)


def _connect(request: Request, online: int) -> None:
    """Make the router, and the endpoint of the job's own containers on it; say on `online` when that can be joined."""
    addresses = request.addresses
    slirp = _fork_uplink(addresses, mtu=request.mtu, socket=paths.UPLINK_SOCKET if request.publishes else "") if addresses else None
    rules = egress.rules(request.egress, addresses, netlink.own_addresses()) if addresses else []
    syscalls.unshare(syscalls.CLONE_NEWNET)
    if slirp:
        _make_uplink_device()
    inhabitant = Inhabitant(request.endpoint, addresses, userns.relative(request.container_map, request.keeper_map))
    inhabitant.pin()
    os.write(online, _PINNED)
    if addresses and slirp:
        nft, ip = netlink.start_nft(network.router_rules(uplink.DEVICE, rules)), netlink.start_ip()
        slirp.release()
        wire = network.attach_command(request.endpoint.number, pid=inhabitant.pid, mtu=request.mtu)
        netlink.finish_ip(ip, [*network.router_commands(addresses, mtu=request.mtu), wire])
        nft.finish()
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="utf-8") as file:
            file.write("1")
    inhabitant.configure()
    inhabitant.finish()
    if slirp:
        slirp.wait()


def _make_uplink_device() -> None:
    """Make slirp4netns' device, which then ends with the network namespace, in the kernel's own time.

    One that it makes itself it takes along, and the end of every job would wait 20 ms for that.
    """
    try:
        netdevice.make_tap(uplink.DEVICE)
    except OSError as e:
        log.debug(f"{uplink.DEVICE} is left to slirp4netns, which will say what is wrong: {e}")


class _Uplink:
    """slirp4netns, forked while the host's network is still ours: nobody can return to it later."""

    def __init__(self, go: int, ready: int) -> None:
        self._go, self._ready = go, ready

    def release(self) -> None:
        """Start it: the network namespace that it connects exists now."""
        os.write(self._go, b"x")
        os.close(self._go)

    def wait(self) -> None:
        """Wait until it has configured its device."""
        if os.read(self._ready, 1) != b"1":
            raise OSError(5, "slirp4netns ended at once; is /dev/net/tun open to the account?")
        os.close(self._ready)


def _fork_uplink(addresses: network.Addresses, *, mtu: int, socket: str) -> _Uplink:
    wait, go = os.pipe()
    ready_r, ready_w = os.pipe()
    path = process.find("slirp4netns")
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            if os.read(wait, 1):
                os.set_inheritable(ready_w, True)
                argv = uplink.slirp_argv(pid=own, mtu=mtu, addresses=addresses, ready_fd=ready_w, socket=socket)
                os.execve(path, argv, process.minimal_env())
        finally:
            os._exit(127)
    os.close(wait)
    os.close(ready_w)
    with open(paths.UPLINK, "w", encoding="utf-8") as file:
        file.write(f"{pid} {process.start_time(pid)}")
    return _Uplink(go, ready_r)


def _failed(words: str) -> errors.InfraError:
    return errors.InfraError(f"cannot start a keeper: {words}", _hint(words))


def _hint(words: str) -> str:
    if "newuidmap" in words or "newgidmap" in words:
        return "run `dockless doctor`: subordinate ids or the uidmap package are missing"
    if "slirp4netns" in words:
        return "apt-get install slirp4netns; chmod 666 /dev/net/tun"
    for program, package in (("nft", "nftables"), ("ip", "iproute2")):
        if words.startswith(f"{program} is not installed"):
            return f"apt-get install {package}"
    return "run `dockless doctor`"
