"""A container whose main process goes on by itself, as `docker run -d` leaves it: started, joined by other processes, stopped.

Other processes join the namespaces of the one that runs (crun exec) and are no containers of their own: what they leave in the background
belongs to PID 1 of the container, and lives on when they have ended.
"""

from __future__ import annotations

import os
import time

from runner import errors, log, paths
from runner.job import disk_alarm, keeper, log_bound
from runner.job.state import ContainerState, JobState
from runner.kernel import files, plain_json, process, signals, syscalls
from runner.record import NamedTuple
from runner.sandbox import crun, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


_FOREVER_S = 86400.0


class Main(NamedTuple):
    """The first process of a container, by what names it for ever: its pid in the job's PID namespace and its start time; 0 if it ended."""

    pid: int
    started: int


class Adjustments(NamedTuple):
    """What `docker run` can say about a container that its spec does not say yet."""

    tmpfs: tuple[tuple[str, str], ...] = ()  # (absolute path, mount options with commas)
    shm_size: int = 0  # bytes, 0: the default
    rlimits: tuple[tuple[str, int, int], ...] = ()  # ("RLIMIT_NOFILE", soft, hard)
    groups: tuple[int, ...] = ()
    dropped: tuple[str, ...] = ()  # capabilities
    read_only: bool = False


class Execution(NamedTuple):
    """One more process in a container that runs; "" means as the container's own."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()  # on top of the container's
    cwd: str = ""
    user: str = ""
    has_stdin: bool = False  # it reads what the caller reads, else nothing
    terminal: bool = False
    detach: bool = False


class Creating:
    """A container that a child of ours creates, and starts when it is told to."""

    def __init__(self, pid: int, go: int, answer: int) -> None:
        self._pid, self._go, self._answer = pid, go, answer

    def start(self) -> Main:
        """Start the container's own command. Raises crun.StartFailure for a program that cannot be started, and RunnerErrors. Call once."""
        try:
            os.write(self._go, b"s")
        except BrokenPipeError:
            pass  # the child has ended already, and its answer says why
        answer = self._end()
        if len(answer) == 3:  # the class does not come through the pipe, and its exit code is what the caller is asked for
            raise crun.StartFailure(*answer)
        return Main(*answer)

    def abandon(self) -> None:
        """Let the child end without having started anything; what it made ends with the job. Does nothing after `start`."""
        if self._go >= 0:
            try:
                self._end()
            except (errors.RunnerError, OSError) as e:
                log.debug(f"a container was not created: {e}")

    def _end(self) -> Any:
        os.close(self._go)
        self._go = -1
        return process.receive(self._pid, self._answer)


def create(current: JobState, name: str, *, log_path: str, endless_stdin: bool, adjustments: Adjustments) -> Creating:
    """Begin to create a container of a job, which need not be online yet; what it prints goes to the file `log_path`.

    With `endless_stdin` its stdin never ends and never has anything, as that of a terminal at which nobody types: `cat` waits for ever.
    Returns at once. Call once for a container.
    """
    container = current.container(name)
    # crun makes it the container user's own where it can, and we have to read it; nobody else gets into the directory
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    procs = _open_group(container)
    go_r, go_w = os.pipe()
    answer_r, answer_w = os.pipe()
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(go_w)  # it ends when we do
        process.die_with(own)

        def outer() -> Any:
            keeper.enter(current.keeper, network=False)
            process.die_with(own)  # again: our credentials have changed
            return process.fork_call(
                lambda: _create_and_start(container, log_fd, current.disk.log, procs, go_r, endless_stdin, adjustments)
            )

        process.answer_and_exit(answer_w, outer)
    for fd in (log_fd, go_r, answer_w, *((procs,) if procs >= 0 else ())):
        os.close(fd)
    return Creating(pid, go_w, answer_r)


def _open_group(container: ContainerState) -> int:
    """Open the container's cgroup, -1 without one, while the host's hierarchy is in sight: the job sees only its own."""
    return os.open(f"{container.cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if container.cgroup else -1


def _create_and_start(
    container: ContainerState, log_fd: int, log_bytes: int, procs: int, go: int, endless_stdin: bool, adjustments: Adjustments
) -> tuple[object, ...]:
    from runner.job import step  # whoever made the job has loaded it, and docker exec does not need it

    output = log_bound.pipe(log_fd, log_bytes)
    if procs >= 0:
        os.write(procs, b"0")
    base = f"{paths.RUN}/c/{container.name}/base.json"
    files.write_json(base, adjusted(files.read_json(base), adjustments), durable=False)
    bundle = _bundle(container.name)
    stdin = _open_endless() if endless_stdin else -1
    try:
        argv = step.write_bundle(bundle, container, step.Request(container.name))
        _crun(crun.create_argv(bundle, _id(container.name)), bundle, argv, output=output, stdin=stdin)
        if not os.read(go, 1):
            raise errors.InfraError("nobody waits for the container any more")
        _crun(crun.start_argv(bundle, _id(container.name)), bundle, argv)
    except crun.StartFailure as e:
        return e.message, e.hint, e.exit_code
    pid = int(files.read(f"{bundle}/pid"))
    try:
        return pid, process.start_time(pid)
    except ProcessLookupError:
        return 0, 0


def _crun(command: list[str], bundle: str, argv: tuple[str, ...], *, output: int = -1, stdin: int = -1) -> None:
    code = process.run_leaving_children(command, output=output, stdin=stdin)
    if code != 0:
        raise crun.failure(bundle, argv) or errors.InfraError(f"crun ended with {code}")


def _bundle(name: str) -> str:
    return f"{paths.RUN}/c/{name}/{_id(name)}"


def _id(name: str) -> str:
    return f"{name}.0"


def _open_endless() -> int:
    """Return a descriptor to read from that is its own writer: there is no end of file while it is open, and no process to keep it so."""
    reader, writer = os.pipe()
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)


def adjusted(spec: dict[str, Any], adjustments: Adjustments) -> dict[str, Any]:
    """Return a container's spec with what `docker run` said about it."""
    settings = dict(spec["process"])
    mounts = list(spec["mounts"])
    if adjustments.shm_size:
        mounts = [_resized(mount, adjustments.shm_size) if mount["destination"] == "/dev/shm" else mount for mount in mounts]
    for target, options in adjustments.tmpfs:
        chosen = ["nosuid", "nodev", "noexec", *(option for option in options.split(",") if option)]
        mounts.append({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": chosen})
    if adjustments.groups:
        user = settings["user"]
        settings["user"] = {**user, "additionalGids": list(dict.fromkeys((*user["additionalGids"], *adjustments.groups)))}
    if adjustments.rlimits:
        own = {limit["type"] for limit in settings["rlimits"]}  # what the configuration says is no job's to change
        settings["rlimits"] += [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in adjustments.rlimits if name not in own]
    if adjustments.dropped:
        settings["capabilities"] = {
            kind: [name for name in held if name not in adjustments.dropped and "ALL" not in adjustments.dropped]
            for kind, held in settings["capabilities"].items()
        }
    root = {**spec["root"], "readonly": True} if adjustments.read_only else spec["root"]
    return {**spec, "root": root, "mounts": mounts, "process": settings}


def _resized(mount: dict[str, Any], size: int) -> dict[str, Any]:
    return {**mount, "options": [*(option for option in mount["options"] if not option.startswith("size=")), f"size={size}"]}


def is_running(current: JobState, main: Main) -> bool:
    """Tell whether a container's first process still runs."""
    if not main.started or not current.keeper.is_alive():
        return False
    try:
        return bool(keeper.call(current.keeper, lambda: process.is_alive(*main)))
    except errors.InfraError:  # the job has ended just now
        return False


def execute(current: JobState, name: str, main: Main, request: Execution) -> int:
    """Run one more process in a container that runs and return its exit code. Moves this process into the job for good: call once.

    It writes to the caller's own streams, unless it is to be left alone. When this process is killed it goes on.
    Raises crun.StartFailure when it cannot be started, UserError when the container does not run.
    """
    container = current.container(name)
    procs = _open_group(container)
    keeper_fd = keeper.enter(current.keeper)
    if not main.started or not process.is_alive(*main):
        raise errors.UserError("the container is not running")
    description = os.memfd_create("process")  # not a file: its environment holds secrets
    os.write(description, plain_json.dumps(_process(container, request)).encode())
    words = os.memfd_create("log")
    try:
        pid = os.fork()
    except OSError as e:
        keeper.blame(keeper_fd, e)
        raise
    if pid == 0:
        _become_crun(_id(name), request, description, words, procs)
    code = os.waitstatus_to_exitcode(_wait(pid, disk_alarm.Alarm(current)))
    failed = crun.failure_of(os.pread(words, 64 * 1024, 0), request.argv) if code else None
    if failed:
        raise failed
    return code if code >= 0 else 128 - code


def _wait(pid: int, alarm: disk_alarm.Alarm) -> int:
    """Wait for the end of crun while watching the job's disk; UserError, with the container ended, when the job has written too much."""
    pidfd = os.pidfd_open(pid)
    try:
        while not process.wait_pidfd(pidfd, _FOREVER_S if alarm.next is None else max(0.0, alarm.next - time.monotonic())):
            if alarm.next is not None and alarm.look():
                raise alarm.end()
    finally:
        os.close(pidfd)
    return os.waitpid(pid, 0)[1]


def _process(container: ContainerState, request: Execution) -> dict[str, Any]:
    """Return the description of a process: the container's own, but for what was asked."""
    settings: dict[str, Any] = files.read_json(f"{_bundle(container.name)}/config.json")["process"]
    env = dict(entry.split("=", 1) for entry in settings["env"])
    if request.user:
        root = os.open(f"{paths.RUN}/c/{container.name}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        user = users.resolve(request.user, root=root)
        settings["user"] = {**settings["user"], "uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}
        held = settings["capabilities"]
        effective = held["bounding"] if user.uid == 0 else []
        settings["capabilities"] = {**held, "effective": effective, "permitted": effective}
        env["HOME"] = user.home
    env.update(request.env)
    return {
        **settings, "args": list(request.argv), "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": request.cwd or settings["cwd"], "terminal": request.terminal,
    }  # fmt: skip


def _become_crun(container_id: str, request: Execution, description: int, words: int, procs: int) -> NoReturn:
    try:
        if not request.terminal:
            os.setsid()  # a signal to the caller's group is not for what runs in the container
        if procs >= 0:
            os.write(procs, b"0")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2) if request.detach else () if request.has_stdin else (0,):
            os.dup2(null, fd)
        os.dup2(description, 3)
        os.dup2(words, 4)
        syscalls.close_range(5)
        argv = crun.exec_argv(container_id, process="/proc/self/fd/3", log="/proc/self/fd/4", detach=request.detach)
        if log.is_debug():
            log.debug(f"+ {process.display(argv)}")
        signals.pthread_sigmask(signals.SIG_SETMASK, ())
        signals.signal(signals.SIGPIPE, signals.SIG_DFL)
        os.execve(crun.PROGRAM, argv, process.minimal_env())
    except BaseException as e:  # only exec's failure can be told apart here: its caller reads the exit code
        os.write(2, f"ERROR: cannot start crun: {e}\n".encode())
    finally:
        os._exit(126)


def stop(current: JobState, name: str, main: Main, *, number: int, grace_s: float) -> None:
    """Signal a container's first process, kill it when it still runs after `grace_s`, and wait for its end. Idempotent."""
    if current.keeper.is_alive():
        keeper.call(current.keeper, lambda: _stop(name, main, number, grace_s))


def _stop(name: str, main: Main, number: int, grace_s: float) -> None:
    began = time.monotonic()
    try:
        pidfd = process.open_pidfd(*main) if main.started else -1
        if pidfd >= 0:
            signals.pidfd_send_signal(pidfd, number)
            if not process.wait_pidfd(pidfd, grace_s):
                signals.pidfd_send_signal(pidfd, signals.SIGKILL)
                process.wait_pidfd(pidfd, 10.0)
    except ProcessLookupError:
        pass
    process.run(crun.delete_argv(_id(name)), check=False)
    log.debug(f"container {name} stopped after {time.monotonic() - began:.3f} s")


def send(current: JobState, main: Main, number: int) -> None:
    """Signal a container's first process. UserError when it does not run."""

    def inside() -> bool:
        try:
            signals.pidfd_send_signal(process.open_pidfd(*main), number)
        except ProcessLookupError:
            return False
        return True

    if not (main.started and current.keeper.is_alive() and keeper.call(current.keeper, inside)):
        raise errors.UserError("the container is not running")
