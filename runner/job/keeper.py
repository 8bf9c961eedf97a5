"""The keeper: PID 1 of a job's PID namespace and holder of its user, mount, network, ipc, uts and cgroup namespaces.

It does nothing but exist: killing it makes the kernel end every process of the job and drop every mount and network device.
Until `commit` it lives only as long as the process that started it (they share a pipe), so a crash half-way leaves nothing;
after that it is `sleep infinity` under another name, some hundred kilobytes that reap orphans because SIGCHLD is ignored.
"""

from __future__ import annotations

import os
import signal

from runner import errors, log, paths
from runner.kernel import netlink, process, syscalls, userns
from runner.model import IdMap
from runner.record import NamedTuple
from runner.sandbox import network, uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)  # fmt: skip


class Keeper(NamedTuple):
    """One keeper, by what names a process for ever on this boot."""

    pid: int
    started: int  # clock ticks since boot
    boot_id: str

    def is_alive(self) -> bool:
        """Tell whether this keeper still runs."""
        return self.boot_id == boot_id() and process.is_alive(self.pid, self.started)


def find(name: str) -> list[Keeper]:
    """Return the committed keepers of the job `name` that run, by what ps shows of them: for a job whose record is lost.

    Containers can give themselves such a command line, but no place as the first process of a PID namespace right below ours.
    """
    command = b"\0".join(argument.encode() for argument in _argv(name)) + b"\0"
    depth = len(_namespace_pids("self")) + 1
    found = []
    for entry in os.listdir("/proc"):
        try:
            if not entry.isdigit() or os.stat(f"/proc/{entry}").st_uid != os.getuid():
                continue
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                if file.read(4096) != command:
                    continue
            numbers = _namespace_pids(entry)
            if len(numbers) == depth and numbers[-1] == b"1":
                found.append(Keeper(int(entry), process.start_time(int(entry)), boot_id()))
        except (FileNotFoundError, ProcessLookupError):  # ended just now
            continue
    return found


def _namespace_pids(entry: str) -> list[bytes]:
    """Return a process's number in each PID namespace that it is in, ours first (proc_pid_status(5), NSpid)."""
    with open(f"/proc/{entry}/status", "rb") as file:
        return next(line.split()[1:] for line in file if line.startswith(b"NSpid:"))


def _argv(name: str) -> list[str]:
    return [f"dockless: keeper of {name}", "infinity"]


class Request(NamedTuple):
    """What a keeper is started with."""

    name: str  # shown by ps
    keeper_map: IdMap  # 0 is the account
    container_map: IdMap  # outside ids are the host's
    addresses: network.Addresses | None  # None: no network at all
    mtu: int


class Starting:
    """A keeper that is being made, and the pipe that keeps it alive until `commit`."""

    def __init__(self, child: int, answer: int, lifeline: int) -> None:
        self._child = child
        self._answer = answer
        self._lifeline = lifeline

    def ready(self) -> Keeper:
        """Wait until the namespaces and the router stand. Raises InfraError with what failed. Call once."""
        try:
            pid = process.receive(self._child, self._answer)
        except OSError as e:
            raise errors.InfraError(f"cannot start a keeper: {e.strerror or e}", _hint(e)) from e
        return Keeper(pid, process.start_time(pid), boot_id())

    def commit(self) -> None:
        """Let the keeper outlive this process."""
        os.write(self._lifeline, b"c")
        self.close()

    def close(self) -> None:
        """Let go; without `commit` before, the keeper and its whole job end now. Idempotent."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def boot_id() -> str:
    """Return the kernel's random id of this boot: pids and start times mean nothing after the next one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start(request: Request) -> Starting:
    """Start a keeper; returns at once, `Starting.ready` waits for it. The caller must be single-threaded."""
    lifeline_r, lifeline_w = os.pipe()
    answer_r, answer_w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(lifeline_w)
        os.close(answer_r)
        _outer(request, lifeline_r, answer_w)
    os.close(lifeline_r)
    os.close(answer_w)
    return Starting(child, answer_r, lifeline_w)


def _outer(request: Request, lifeline: int, answer: int) -> NoReturn:
    """Make the namespaces, fork the keeper into them, tell its pid once it is ready, and end."""

    def make() -> int:
        _leave_caller(keep=(lifeline, answer))
        ready_r, ready_w = os.pipe()
        userns.enter(request.keeper_map, NAMESPACES)
        pid = os.fork()
        if pid == 0:
            os.close(answer)
            os.close(ready_r)
            _inner(request, lifeline, ready_w)
        os.close(ready_w)
        os.close(lifeline)
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
    low = 3
    for fd in sorted(keep):
        if fd > low:
            syscalls.close_range(low, fd - 1)
        low = fd + 1
    syscalls.close_range(low)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _inner(request: Request, lifeline: int, ready: int) -> NoReturn:
    try:
        _furnish(request)
        os.write(ready, b"ok")
    except BaseException as e:  # the last word of this process: whatever it is must reach the caller
        os.write(ready, (getattr(e, "strerror", None) or str(e) or type(e).__name__).encode())
        os._exit(1)
    os.close(ready)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # survives exec: the kernel reaps orphans by itself
    if os.read(lifeline, 1) != b"c":
        os._exit(0)
    # a keeper of an idle job should weigh nothing: the interpreter makes way for the smallest program there is
    os.execve("/usr/bin/sleep", _argv(request.name), {})


def _furnish(request: Request) -> None:
    """Mount what the job's programs need, pin the containers' user namespace, and build the router."""
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "/proc", "proc", flags)
    # what is there may be the same file system, which mount(2) refuses on top of itself (EBUSY): something else goes between
    syscalls.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", flags)
    syscalls.mount("none", "/sys/fs/cgroup", "cgroup2", flags)
    syscalls.mount("tmpfs", paths.RUN, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
    for name in ("ns", "c"):
        os.mkdir(f"{paths.RUN}/{name}", 0o755)
    slirp = _fork_uplink(request) if request.addresses else None
    syscalls.unshare(syscalls.CLONE_NEWNET)
    go = slirp.release() if slirp else None
    _pin_user_namespace(request)
    if slirp and go and request.addresses:
        netlink.ip_batch(network.router_commands(request.addresses, mtu=request.mtu))
        netlink.nft(network.router_rules(uplink.DEVICE))
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
            file.write("1")
        slirp.wait()


class _Uplink:
    """slirp4netns, forked while the host's network is still ours: nobody can return to it later."""

    def __init__(self, go: int, ready: int) -> None:
        self._go, self._ready = go, ready

    def release(self) -> bool:
        """Start it: the keeper's own network namespace exists now."""
        os.write(self._go, b"x")
        os.close(self._go)
        return True

    def wait(self) -> None:
        """Wait until it has configured its device."""
        if os.read(self._ready, 1) != b"1":
            raise OSError(5, "slirp4netns ended at once; is /dev/net/tun open to the account?")
        os.close(self._ready)


def _fork_uplink(request: Request) -> _Uplink:
    assert request.addresses
    wait, go = os.pipe()
    ready_r, ready_w = os.pipe()
    path = process.find("slirp4netns")
    pid = os.getpid()
    if os.fork() == 0:
        try:
            os.close(go)
            if not os.read(wait, 1):
                os._exit(0)
            os.set_inheritable(ready_w, True)
            argv = uplink.slirp_argv(pid=pid, mtu=request.mtu, addresses=request.addresses, ready_fd=ready_w)
            os.execve(path, argv, process.minimal_env())
        finally:
            os._exit(127)
    os.close(wait)
    os.close(ready_w)
    return _Uplink(go, ready_r)


def _pin_user_namespace(request: Request) -> None:
    """Make the user namespace of the job's containers and keep it by a bind mount, with no process in it."""
    inner = userns.relative(request.container_map, request.keeper_map)
    entered_r, entered_w = os.pipe()
    done_r, done_w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(done_w)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else its /proc/<pid>/ns is closed to us
            os.write(entered_w, b"x")
            os.read(done_r, 1)
        finally:
            os._exit(0)
    os.close(entered_w)
    os.close(done_r)
    try:
        if not os.read(entered_r, 1):
            raise OSError(1, "cannot make the containers' user namespace")
        userns.map_directly(child, inner)
        pin(f"/proc/{child}/ns/user", f"{paths.RUN}/ns/user")
    finally:
        os.close(entered_r)
        os.close(done_w)
        os.waitpid(child, 0)


def pin(namespace: str, path: str) -> None:
    """Keep a namespace alive under a name (ip-netns(8) does the same)."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    syscalls.mount(namespace, path, "", syscalls.MS_BIND)


def enter(keeper: Keeper) -> int:
    """Move this process into the job: its namespaces, as root of the keeper's user namespace. Children are in its PID namespace.

    Returns a pidfd of the keeper, which is out of sight from inside. The caller must be single-threaded.
    Raises InfraError when the keeper has ended.
    """
    try:
        fd = process.open_pidfd(keeper.pid, keeper.started)
    except ProcessLookupError as e:
        raise errors.InfraError(
            f"job environment is gone: its keeper (process {keeper.pid}) has ended",
            "was the machine out of memory, or the job cleaned up already?",
        ) from e
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWUSER | NAMESPACES | syscalls.CLONE_NEWNET)
    except ProcessLookupError as e:
        os.close(fd)
        raise errors.InfraError("job environment is gone: its keeper has just ended") from e
    userns.become_root()
    os.chdir("/")
    os.umask(0o022)  # what the caller keeps to itself, the containers' ids could not enter
    return fd


def call(keeper: Keeper, function: Callable[[], Any]) -> Any:
    """Run `function` inside the job, in a child that is also in its PID namespace; return its JSON-able result or raise what it raised."""

    parent_pid = os.getpid()

    def outer() -> Any:
        enter(keeper)
        process.die_with(parent_pid)  # again: our credentials have changed
        return process.fork_call(function)

    return process.fork_call(outer)


def kill(keeper: Keeper, *, timeout_s: float = 10.0) -> None:
    """End the keeper and with it every process, mount and device of the job. Idempotent; InfraError if it does not die in time."""
    if keeper.boot_id != boot_id():
        return
    try:
        fd = process.open_pidfd(keeper.pid, keeper.started)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        # a PID namespace ends when its last process has: wait, so that nothing writes to what is removed next
        if not process.wait_pidfd(fd, timeout_s):
            raise errors.InfraError(f"keeper {keeper.pid} does not end: a process of the job hangs in the kernel")
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    log.debug(f"keeper {keeper.pid} ended")


def _hint(error: OSError) -> str:
    words = error.strerror or str(error)
    if "newuidmap" in words or "newgidmap" in words:
        return "run `dockless doctor`: subordinate ids or the uidmap package are missing"
    if "slirp4netns" in words:
        return "apt-get install slirp4netns; chmod 666 /dev/net/tun"
    for program, package in (("nft", "nftables"), ("ip", "iproute2")):
        if words.startswith(f"{program} is not installed"):
            return f"apt-get install {package}"
    return "run `dockless doctor`"
