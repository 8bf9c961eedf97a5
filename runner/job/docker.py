"""The Docker API of a job: sockets that listen from the start, and a sidecar that starts when somebody connects.

The sidecar is a container of the job's own build user, in the network of the job's containers, so that what its engine publishes is
reached where they are. A process waits at the sockets until then (job.docker_gate); both end with the job, as everything below the keeper.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time

from runner import errors, paths
from runner.job import keeper
from runner.job.endpoint import JOB
from runner.kernel import answers, process, syscalls
from runner.model import Volume
from runner.sandbox import engine, rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runner.job import furnish
    from runner.job.keeper import Keeper
    from runner.job.state import JobState
    from runner.model import DockerSpec

CONTAINER = "docker"
_SOCKET_IN_CONTAINERS = "/var/run/docker.sock"
FIRST_LISTENER = 3
_NETWORK_S = 30.0
_DAYS = 30  # longer than any job
_CERTIFICATE = """[req]
distinguished_name = name
x509_extensions = ext
prompt = no
[name]
CN = docker
[ext]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = {names}
"""


def volumes(asked: DockerSpec) -> tuple[Volume, ...]:
    """Return what a container of the job gets to see of its API."""
    found = [Volume(paths.DOCKER_SOCKET, _SOCKET_IN_CONTAINERS)]
    if asked.certificates:
        found.append(Volume(paths.DOCKER_TLS, asked.certificates, read_only=True))
    return tuple(found)


def volumes_of_sidecar(asked: DockerSpec) -> tuple[Volume, ...]:
    """Return what the sidecar itself gets to see of it: containers may bind the socket."""
    found = [Volume(paths.DOCKER_SOCKET, _SOCKET_IN_CONTAINERS)]
    if asked.certificates:
        found.append(Volume(paths.DOCKER_TLS, engine.TLS, read_only=True))
    return tuple(found)


class Starting:
    """Sockets that are being made by a child of ours."""

    def __init__(self, pid: int, answer: int) -> None:
        self._pid, self._answer = pid, answer

    def finish(self, current: JobState) -> None:
        """Wait until clients may come, and give what waits for them the limits of `current`. Raises RunnerErrors. Call once."""
        try:
            waiting = int(process.receive(self._pid, self._answer))
        except OSError as e:
            raise errors.InfraError(f"the job's Docker API cannot listen: {e.strerror}", "run `dockless doctor`") from e
        if current.cgroup:
            with open(f"{current.cgroup}/{CONTAINER}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(waiting))


def start(young: Keeper, asked: DockerSpec, plan: furnish.Plan, *, log: str, log_bytes: int) -> Starting:
    """Begin to listen for clients, in a keeper whose network is still being made; returns at once, `Starting.finish` has to follow.

    What listens makes the sidecar (the one container of `plan`) for the first client. What that prints goes to the file `log`, up to
    `log_bytes` (0: no bound).
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    owner = (rootfs.owner_of_root(plan.inner_map.uids), rootfs.owner_of_root(plan.inner_map.gids))
    names = ("localhost", *asked.container.aliases) if asked.certificates else ()
    own = os.getpid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    busy, held = os.pipe2(os.O_CLOEXEC)  # our end of it stays open for as long as this process runs
    pid = os.fork()
    if pid == 0:
        os.close(held)
        process.die_with(own)
        process.answer_and_exit(writer, lambda: _start(young, plan, names, owner=owner, log=log_fd, log_bytes=log_bytes, busy=busy))
    for fd in (writer, log_fd, busy):
        os.close(fd)
    return Starting(pid, reader)


def _start(
    young: Keeper, plan: furnish.Plan, names: tuple[str, ...], *, owner: tuple[int, int], log: int, log_bytes: int, busy: int
) -> int:
    """Return the pid, as the host has it, of the process that waits for clients; they may come when this returns."""
    keeper.enter(young, network=False)
    for path in (paths.DOCKER, paths.DOCKER_TLS):
        os.makedirs(path, 0o755, exist_ok=True)  # job.furnish may have come first
    if names:
        _make_certificates(names, owner=owner)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        process.close_others(keep=(0, 1, 2, writer, log, busy))
        process.answer_and_exit(writer, lambda: _wait_at_sockets(plan, owner, writer, log, log_bytes, busy, tls=bool(names)))
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    if answer:  # nothing when it listens
        answers.decode(answer)
    return pid


def _join_network() -> None:
    """Enter the network of the job's containers, once there is one. TimeoutError if there is none in time."""
    path = paths.namespace("net", JOB)
    deadline = time.monotonic() + _NETWORK_S
    while time.monotonic() < deadline:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWNET)
                return
            finally:
                os.close(fd)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.EINVAL):  # a file of that name comes before the namespace is pinned to it
                raise
        time.sleep(0.001)
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)


def _make_certificates(names: tuple[str, ...], *, owner: tuple[int, int]) -> None:
    """Make one key and one certificate, for both ends and signed by itself: nobody but this job ever trusts it."""
    alternatives = ",".join([*(f"DNS:{name}" for name in dict.fromkeys(names)), "IP:127.0.0.1"])
    settings = f"{paths.DOCKER}/openssl.cnf"
    with open(settings, "w", encoding="utf-8") as file:
        file.write(_CERTIFICATE.format(names=alternatives))
    key, certificate = f"{paths.DOCKER_TLS}/key.pem", f"{paths.DOCKER_TLS}/cert.pem"
    process.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(_DAYS),
         "-config", settings, "-keyout", key, "-out", certificate]
    )  # fmt: skip
    os.link(certificate, f"{paths.DOCKER_TLS}/ca.pem")
    for path in (key, certificate):
        os.chmod(path, 0o644)  # for whatever user the job's image has: nobody else can see the directory
        os.chown(path, *owner)


def _wait_at_sockets(
    plan: furnish.Plan, owner: tuple[int, int], answer: int, log: int, log_bytes: int, busy: int, *, tls: bool
) -> NoReturn:
    """Listen, let the parent go on by closing `answer`, and become the program that waits for a client. Raises only before that."""
    # the C half of socket: the Python one costs each job 5 ms
    import _socket

    os.setsid()
    _join_network()
    sockets = [_socket.socket(_socket.AF_UNIX)]
    sockets[0].bind(paths.DOCKER_SOCKET)
    os.chmod(paths.DOCKER_SOCKET, 0o666)
    os.chown(paths.DOCKER_SOCKET, *owner)
    for port in (engine.PORT, *((engine.TLS_PORT,) if tls else ())):
        sockets.append(_socket.socket(_socket.AF_INET))
        sockets[-1].setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sockets[-1].bind(("0.0.0.0", port))
    for each in sockets:
        each.listen(_socket.SOMAXCONN)
    os.close(answer)
    try:
        _become_gate(plan, [each.fileno() for each in sockets], log, log_bytes, busy)
    except BaseException as e:  # nobody waits for an answer any more: the log is the only place
        os.write(log, f"ERROR: nobody waits for clients of the Docker API: {e}\n".encode())
    finally:
        os._exit(1)


def _become_gate(plan: furnish.Plan, sockets: list[int], log: int, log_bytes: int, busy: int) -> NoReturn:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, fd)  # whoever waits for the end of the one that makes the job waits for its output to be closed
    # starting a program would take the processor from who makes the job: not before that is done, or a client is there
    poll = select.poll()
    for fd in (busy, *sockets):
        poll.register(fd, select.POLLIN)
    poll.poll()
    import _pickle

    memory = os.memfd_create("plan")
    with open(memory, "wb", closefd=False) as file:
        file.write(_pickle.dumps(plan))
    os.lseek(memory, 0, os.SEEK_SET)
    # first to numbers far above, so that none is overwritten before it is where it should be
    high = [_copy_high(fd) for fd in (memory, log, *sockets)]
    for fd, target in zip(high, (0, 1, *range(FIRST_LISTENER, FIRST_LISTENER + len(sockets))), strict=True):
        os.dup2(fd, target)
    os.dup2(1, 2)
    start = f"docker_gate.main({FIRST_LISTENER}, {len(sockets)}, {log_bytes})"
    program = f"import sys; sys.path[:0] = {sys.path!r}; from runner.job import docker_gate; {start}"
    syscalls.close_range(FIRST_LISTENER + len(sockets), flags=syscalls.CLOSE_RANGE_CLOEXEC)
    os.execve(sys.executable, [sys.executable, "-IS", "-c", program], process.minimal_env())


def _copy_high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
