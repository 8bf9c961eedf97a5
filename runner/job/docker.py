"""The Docker API of a job: sockets that listen from the start, and a sidecar that starts when somebody connects.

The sidecar is a container of the job's own build user, in the network of the job's containers, so that what its engine publishes is
reached where they are. A process waits at the sockets until then (job.docker_gate); both end with the job, as everything below the keeper.
"""

from __future__ import annotations

import os
import sys

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
    from runner.job.state import JobState
    from runner.model import DockerSpec

CONTAINER = "docker"
_SOCKET_IN_CONTAINERS = "/var/run/docker.sock"
FIRST_LISTENER = 3
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


def start(current: JobState, asked: DockerSpec, plan: furnish.Plan, *, log: str) -> None:
    """Listen for clients, and leave a process that makes the sidecar (the one container of `plan`) for the first of them.

    What the sidecar prints goes to the file `log`. Raises RunnerErrors.
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # opened here, where the host's hierarchy is in sight; the job sees only its own
    procs = os.open(f"{current.cgroup}/{CONTAINER}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if current.cgroup else -1
    owner = (rootfs.owner_of_root(plan.inner_map.uids), rootfs.owner_of_root(plan.inner_map.gids))
    names = ("localhost", *asked.container.aliases) if asked.certificates else ()

    def begin() -> None:
        keeper.enter(current.keeper)
        if names:
            _make_certificates(names, owner=owner)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            process.close_others(keep=(0, 1, 2, writer, log_fd, *((procs,) if procs >= 0 else ())))
            process.answer_and_exit(writer, lambda: _wait_at_sockets(plan, owner, writer, log_fd, procs, tls=bool(names)))
        os.close(writer)
        with open(reader, "rb") as file:
            answer = file.read()
        if answer:  # nothing when it listens
            answers.decode(answer)

    try:
        process.fork_call(begin)
    except OSError as e:
        raise errors.InfraError(f"the job's Docker API cannot listen: {e.strerror}", "run `dockless doctor`") from e
    finally:
        os.close(log_fd)
        if procs >= 0:
            os.close(procs)


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


def _wait_at_sockets(plan: furnish.Plan, owner: tuple[int, int], answer: int, log: int, procs: int, *, tls: bool) -> NoReturn:
    """Listen, let the parent go on by closing `answer`, and become the program that waits for a client. Raises only before that."""
    # the C half of socket: the Python one costs each job 5 ms
    import _socket

    os.setsid()
    if procs >= 0:
        os.write(procs, b"0")
    fd = os.open(paths.namespace("net", JOB), os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
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
        _become_gate(plan, [each.fileno() for each in sockets], log)
    except BaseException as e:  # nobody waits for an answer any more: the log is the only place
        os.write(log, f"ERROR: nobody waits for clients of the Docker API: {e}\n".encode())
    finally:
        os._exit(1)


def _become_gate(plan: furnish.Plan, sockets: list[int], log: int) -> NoReturn:
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
    start = f"docker_gate.main({FIRST_LISTENER}, {len(sockets)})"
    program = f"import sys; sys.path[:0] = {sys.path!r}; from runner.job import docker_gate; {start}"
    syscalls.close_range(FIRST_LISTENER + len(sockets), flags=syscalls.CLOSE_RANGE_CLOEXEC)
    os.execve(sys.executable, [sys.executable, "-IS", "-c", program], process.minimal_env())


def _copy_high(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
