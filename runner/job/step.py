"""One process in a container of a running job: the hot path.

Every step is a fresh `crun run` over the container's persistent root, joined to its pinned namespaces: the entrypoint runs again, files
persist, and when the step ends the kernel ends every process that it left behind.
"""

from __future__ import annotations

import os
import select
import time

from runner import errors, log, paths
from runner.job import disk_alarm, guard, keeper, stop
from runner.job.state import ContainerState, JobState
from runner.kernel import files, plain_json, process, signals, syscalls
from runner.model import Outcome
from runner.record import NamedTuple
from runner.sandbox import crun, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

_STOP_SIGNALS = (signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT)
_FORWARDED = (*_STOP_SIGNALS, signals.SIGUSR1, signals.SIGUSR2, signals.SIGWINCH, signals.SIGCONT, signals.SIGALRM)


class Request(NamedTuple):
    """What to run. `argv` None is the container's own command; its entrypoint comes first unless `entrypoint` is False."""

    container: str
    argv: tuple[str, ...] | None = None
    entrypoint: bool = True
    env: tuple[tuple[str, str], ...] = ()  # on top of the container's
    path: tuple[str, ...] = ()  # directories in front of the container's own PATH, whatever `env` says of it
    cwd: str = ""  # "" is the container's; another one has to be there
    umask: int | None = None
    stdin: int = 0
    terminal: bool = False
    # a stop signal to us: TERM to every process of the container, PID 1 last, KILL after the grace. False: signals go to its PID 1, as
    # docker run does
    stops: bool = True
    grace_s: float = 10.0
    hangup_fd: int = -1  # a pipe or socket whose other end stands for the caller: when that has gone, SIGHUP comes to us after the grace
    hangup_grace_s: float = 10.0
    guarded: bool = True  # False for a job that ends with this process anyway: then nothing is ended or removed one by one


def run(state: JobState, request: Request, *, make: Callable[[], None] = lambda: None) -> Outcome:
    """Run one process to its end and return how it ended. Moves this process into the job for good: call once.

    Output goes to this process's own stdout and stderr. What an earlier, killed step of the same container left is ended first.
    `make` makes, inside the job, a container that is not there yet.
    Raises crun.StartFailure when the program cannot be started, InfraError when the job or its network is gone.
    """
    began = time.monotonic()
    container = state.container(request.container)
    cgroup = _Cgroup(container.cgroup)
    keeper_fd = keeper.enter(state.keeper)
    try:
        return _run(state, request, cgroup, make, keeper_fd, began=began)
    except OSError as e:
        keeper.blame(keeper_fd, e)
        raise


def _run(state: JobState, request: Request, cgroup: _Cgroup, make: Callable[[], None], keeper_fd: int, *, began: float) -> Outcome:
    """Run a step in the job that this process is in now."""
    container = state.container(request.container)
    _check_uplink(container)
    make()
    end_leftovers(container.name)
    step_id = f"{container.name}.{os.getpid()}"
    bundle = f"{paths.RUN}/c/{container.name}/{step_id}"
    argv = write_bundle(bundle, container, request)
    watch = disk_alarm.Alarm(state)
    outcome = _supervise(bundle, step_id, request, cgroup, keeper_fd, watch)
    failed = crun.failure(bundle, argv) if outcome.exit_code else None
    if request.guarded:
        files.remove_tree(bundle)
    if watch.problem:
        raise watch.end()
    if failed:
        raise failed
    if outcome.exit_code:
        _check_uplink(container)
    return outcome._replace(oom_killed=cgroup.was_oom_killed(), seconds=time.monotonic() - began)


def _check_uplink(container: ContainerState) -> None:
    """Raise InfraError when the job has lost its way out: scripts would fail by timeouts that look like their own fault."""
    if not container.ip:
        return
    pid, started = files.read(paths.UPLINK).split()
    if not process.is_alive(int(pid), int(started)):
        raise errors.InfraError("network of the job is gone: slirp4netns has ended", "was the machine out of memory? run the job again")


def write_bundle(bundle: str, container: ContainerState, request: Request) -> tuple[str, ...]:
    """Write the OCI bundle of one step inside the job: the container's spec with this step's process. Returns the argv.

    Raises crun.StartFailure for a program that is known not to start.
    """
    spec = files.read_json(f"{paths.RUN}/c/{container.name}/base.json")
    settings = spec["process"]
    prefix = settings["args"][: len(settings["args"]) - len(container.entrypoint) - len(container.command)]  # the init, if there is one
    own = container.command if request.argv is None else request.argv
    argv = (container.entrypoint if request.entrypoint else ()) + own
    if not argv:
        raise errors.UserError(f"image {container.image} says no command, and none was given", "name a command")
    settings["args"] = [*prefix, *argv]
    settings["terminal"] = request.terminal
    base_env = settings["env"]
    if request.env:
        merged = dict(entry.split("=", 1) for entry in base_env)
        merged.update(request.env)
        settings["env"] = [f"{name}={value}" for name, value in merged.items()]
    if request.path:
        own_path = [entry[5:] for entry in base_env if entry.startswith("PATH=")][-1:]
        settings["env"] = [entry for entry in settings["env"] if not entry.startswith("PATH=")]
        settings["env"].append(f"PATH={':'.join((*request.path, *own_path))}")
    if request.umask is not None:
        settings["user"]["umask"] = request.umask
    if request.cwd:
        settings["cwd"] = request.cwd
        program.check_directory(spec, request.cwd)
    program.check(spec, argv)
    os.mkdir(bundle, 0o755)
    with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
        file.write(plain_json.dumps(spec))
    return argv


def end_leftovers(container: str) -> None:
    """Kill and forget what a killed step of this container left running. Costs one look into a directory when there is nothing."""
    try:
        names = os.listdir(crun.ROOT)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(f"{container}."):
            process.run(crun.delete_argv(name), check=False)


class _Cgroup:
    """The leaf group of a container, opened while the host's view of the hierarchy is still ours; nothing where there is none."""

    def __init__(self, path: str) -> None:
        self._procs = self._events = -1
        self._kills_before = 0
        if path:
            self._procs = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            self._events = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self._kills_before = self._kills()

    def join(self) -> None:
        """Move the calling process into the group."""
        if self._procs >= 0:
            os.write(self._procs, b"0")

    def _kills(self) -> int:
        for line in os.pread(self._events, 4096, 0).splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def was_oom_killed(self) -> bool:
        """Tell whether the kernel killed a process of the group for memory since this object was made."""
        return self._events >= 0 and self._kills() > self._kills_before


def _start(bundle: str, step_id: str, request: Request, cgroup: _Cgroup) -> int:
    """Fork the process that becomes crun, in the job's PID namespace; returns its pid, or that of its guard."""
    argv = crun.run_argv(bundle, step_id)
    if log.is_debug():
        log.debug(f"+ {process.display(argv)}")
    if request.guarded:
        return guard.start(lambda: _become_crun(argv, request, cgroup))
    pid = os.fork()
    if pid == 0:
        _become_crun(argv, request, cgroup)
    return pid


def _become_crun(argv: list[str], request: Request, cgroup: _Cgroup) -> NoReturn:
    try:
        if not request.terminal:
            os.setsid()  # signals to our process group are ours to pass on
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        cgroup.join()
        if request.stdin != 0:
            os.dup2(request.stdin, 0)
        syscalls.close_range(3)
        signals.pthread_sigmask(signals.SIG_SETMASK, ())
        for number in (*_FORWARDED, signals.SIGPIPE):
            signals.signal(number, signals.SIG_DFL)
        os.execve(crun.PROGRAM, argv, process.minimal_env())
    except BaseException as e:  # only exec's failure can be told apart here: its caller reads the exit code
        os.write(2, f"ERROR: cannot start crun: {e}\n".encode())
    finally:
        os._exit(126)


def _supervise(bundle: str, step_id: str, request: Request, cgroup: _Cgroup, keeper_fd: int, watch: disk_alarm.Alarm) -> Outcome:
    """Start the step and wait for its end, passing signals on and watching the disk. InfraError when the keeper ended, and so the step."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    old_wake = signals.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    ignored = (signals.SIGINT, signals.SIGQUIT, signals.SIGTSTP) if request.terminal else ()
    old = {number: signals.signal(number, signals.SIG_IGN if number in ignored else note) for number in _FORWARDED}
    try:
        pid = _start(bundle, step_id, request, cgroup)
        status = _wait(pid, wake_r, received, bundle, request, watch)
    finally:
        signals.set_wakeup_fd(old_wake)
        for number, handler in old.items():
            signals.signal(number, handler)
        os.close(wake_r)
        os.close(wake_w)
    code = os.waitstatus_to_exitcode(status)
    # a script's own death is crun's exit code; what kills crun itself is the end of the job's PID namespace, which is over in a moment
    if code < 0 and process.wait_pidfd(keeper_fd, 1.0):
        raise errors.InfraError(
            "job environment is gone: its keeper ended under this step", "was the machine out of memory, or the job cleaned up?"
        )
    stop = next((number for number in received if number in _STOP_SIGNALS), 0)
    return Outcome(exit_code=code if code >= 0 else 128 - code, signal=stop if request.stops else 0)


def _wait(pid: int, wake: int, received: list[int], bundle: str, request: Request, watch: disk_alarm.Alarm) -> int:
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(wake, select.POLLIN)
    if request.hangup_fd >= 0:
        poll.register(request.hangup_fd, 0)  # POLLHUP comes unasked (poll(2)), also while there is something to read
    handled = 0
    deadline: float | None = None
    hung_up: float | None = None
    try:
        while True:
            waiting = handled < len(received)
            next_s = min((moment for moment in (deadline, hung_up, watch.next) if moment is not None), default=None)
            timeout_s = 0.02 if waiting else (None if next_s is None else max(0.0, next_s - time.monotonic()))
            ready = {fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
            if pidfd in ready:
                return os.waitpid(pid, 0)[1]
            if wake in ready:
                os.read(wake, 4096)
            if request.hangup_fd in ready:
                poll.unregister(request.hangup_fd)
                hung_up = time.monotonic() + request.hangup_grace_s
            if watch.next is not None and time.monotonic() >= watch.next and watch.look():
                stop.kill(disk_alarm.init_pid(bundle))
            if hung_up is not None and time.monotonic() >= hung_up:
                hung_up = None
                received.append(signals.SIGHUP)
            if handled < len(received):
                target = disk_alarm.init_pid(bundle)
                if target:  # else crun has not started it yet: the signal is kept for the next round
                    number = received[handled]
                    handled += 1
                    if request.stops and number in _STOP_SIGNALS:
                        deadline = deadline or time.monotonic() + request.grace_s
                        stop.terminate(target, patience_s=request.grace_s / 2)
                    elif not request.stops:
                        stop.send(target, number)
            if deadline is not None and time.monotonic() >= deadline:
                deadline = None
                stop.kill(disk_alarm.init_pid(bundle))
    finally:
        os.close(pidfd)
