"""The keeper: PID 1 of a job's PID namespace and holder of its user, mount, network, ipc, uts and cgroup namespaces.

It does nothing but exist: killing it makes the kernel end every process of the job and drop every mount and network device.
job.keeper_start makes it; here it is found again, entered and ended.
"""

from __future__ import annotations

import errno
import os

from runner import errors, log
from runner.kernel import boot, process, signals, syscalls, userns
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_GONE_HINT = "was the machine out of memory, or the job cleaned up already?"
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
        return self.boot_id == boot.boot_id() and process.is_alive(self.pid, self.started)


def find(name: str) -> list[Keeper]:
    """Return the committed keepers of the job `name` that run, by what ps shows of them: for a job whose record is lost.

    Containers can give themselves such a command line, but no place as the first process of a PID namespace right below ours.
    """
    command = b"\0".join(argument.encode() for argument in argv(name)) + b"\0"
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
                found.append(Keeper(int(entry), process.start_time(int(entry)), boot.boot_id()))
        except (FileNotFoundError, ProcessLookupError):  # ended just now
            continue
    return found


def _namespace_pids(entry: str) -> list[bytes]:
    """Return a process's number in each PID namespace that it is in, ours first (proc_pid_status(5), NSpid)."""
    with open(f"/proc/{entry}/status", "rb") as file:
        return next(line.split()[1:] for line in file if line.startswith(b"NSpid:"))


def argv(name: str) -> list[str]:
    """Return the command line by which ps shows the keeper of the job `name`: that of a `sleep infinity` under another name."""
    return [f"dockless: keeper of {name}", "infinity"]


def enter(keeper: Keeper, *, network: bool = True) -> int:
    """Move this process into the job: its namespaces, as root of the keeper's user namespace. Children are in its PID namespace.

    Without `network` it stays in the network that it has: a young keeper has none of its own yet (keeper_start.Starting).

    Returns a pidfd of the keeper, which is out of sight from inside. The caller must be single-threaded.
    Raises InfraError when the keeper has ended.
    """
    try:
        fd = process.open_pidfd(keeper.pid, keeper.started)
    except ProcessLookupError as e:
        raise errors.InfraError(
            f"job environment is gone: its keeper (process {keeper.pid}) has ended",
            _GONE_HINT,
        ) from e
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWUSER | NAMESPACES | (syscalls.CLONE_NEWNET if network else 0))
    except ProcessLookupError as e:
        os.close(fd)
        raise errors.InfraError("job environment is gone: its keeper has just ended", _GONE_HINT) from e
    userns.become_root()
    os.chdir("/")
    os.umask(0o022)  # what the caller keeps to itself, the containers' ids could not enter
    return fd


def blame(fd: int, error: OSError) -> None:
    """Raise InfraError if what failed inside the job did so because its keeper has ended; `fd` is what `enter` returned.

    Without its first process a PID namespace takes no new ones: fork(2) says ENOMEM, and a child that was there already gave no answer.
    """
    if error.errno in (errno.ENOMEM, errno.ECHILD) and process.wait_pidfd(fd, 1.0):
        raise errors.InfraError("job environment is gone: its keeper has just ended", _GONE_HINT) from error


def call(keeper: Keeper, function: Callable[[], Any], *, young: bool = False) -> Any:
    """Run `function` inside the job, in a child that is also in its PID namespace; return its JSON-able result or raise what it raised.

    In a `young` keeper, which is not online yet, it runs outside of the network and the PID namespace.
    """

    parent_pid = os.getpid()

    def outer() -> Any:
        fd = enter(keeper, network=not young)
        process.die_with(parent_pid)  # again: our credentials have changed
        try:
            return function() if young else process.fork_call(function)
        except OSError as e:
            blame(fd, e)
            raise

    return process.fork_call(outer)


def open_user_namespace(keeper: Keeper) -> int | None:
    """Return a descriptor of the user namespace of a keeper that runs, which outlives it; None without one."""
    if not keeper.is_alive():
        return None
    try:
        fd = os.open(f"/proc/{keeper.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended just now, or is somebody else's by now
        return None
    if keeper.is_alive():
        return fd
    os.close(fd)
    return None


def kill(keeper: Keeper, *, timeout_s: float = 10.0) -> None:
    """End the keeper and with it every process, mount and device of the job. Idempotent; InfraError if it does not die in time."""
    if keeper.boot_id != boot.boot_id():
        return
    try:
        fd = process.open_pidfd(keeper.pid, keeper.started)
    except ProcessLookupError:
        return
    try:
        signals.pidfd_send_signal(fd, signals.SIGKILL)
        # a PID namespace ends when its last process has: wait, so that nothing writes to what is removed next
        if not process.wait_pidfd(fd, timeout_s):
            raise errors.InfraError(f"keeper {keeper.pid} does not end: a process of the job hangs in the kernel")
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    log.debug(f"keeper {keeper.pid} ended")
