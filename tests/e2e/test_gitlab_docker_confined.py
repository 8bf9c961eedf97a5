"""What a job's Docker API must never do: outlive the job, leave its build user's ids, be reached from outside, reach another job."""

import fcntl
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from runner import paths
from runner.job import state
from runner.kernel import accounts
from runner.sandbox import build_users
from tests.support import docker_jobs
from tests.support.docker_images import BASE, CLIENT
from tests.support.engine import Engine, sleeping, wait_until
from tests.support.gitlab_attempt import Attempt
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of
from tests.support.gitlab_replay import Replay, when_logged
from tests.support.gitlab_runner import outward_address

_NS_GET_PARENT = 0xB702  # ioctl_ns(2)


@pytest.fixture(params=docker_jobs.ENGINES)
def api(request: pytest.FixtureRequest, gitlab: GitLab, docker_hub: str) -> str:
    """Configure each engine, and return its name."""
    gitlab.configure(**docker_jobs.settings(request.param, docker_hub, mode="replace"))
    return str(request.param)


@pytest.fixture
def mark() -> str:
    """Return how long a container of this test sleeps: by it processes are found whatever they are called and wherever they run."""
    return str(random.randrange(10**8, 10**9))


def dind(*script: str, **more: Any) -> dict[str, Any]:
    """Return a job with docker's command line and a dind service."""
    return job(list(script), **{"image": CLIENT, "services": ["docker:dind"], "variables": {"DOCKER_TLS_CERTDIR": ""}, **more})


def _behind(mark: str) -> str:
    return f"docker run -d --restart always --name behind -p 18473:80 {BASE} sleep {mark} && echo 'container' is up"


def _up(attempt: Attempt, mark: str) -> None:
    output(attempt, _behind(mark))
    assert wait_until(lambda: sleeping(mark)), text_of(attempt)


def _keeper(engine: Engine) -> int:
    ((found, _),) = state.every(paths.Store(str(engine.state)))
    return found.keeper.pid


def _family(keeper: int) -> list[int]:
    """Return the pids of all processes of a job but its keeper: those in its PID namespace and in the ones below it."""
    own = os.stat(f"/proc/{keeper}/ns/pid").st_ino
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != keeper and own in _namespaces(pid)]


def _namespaces(pid: int) -> list[int]:
    """Return a process's PID namespace and those above it, as far as this process may see."""
    found = []
    try:
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []  # ended, or of somebody else
    while fd >= 0:
        found.append(os.fstat(fd).st_ino)
        try:
            parent = fcntl.ioctl(fd, _NS_GET_PARENT)
        except OSError:
            parent = -1  # above it is what this process itself is in
        os.close(fd)
        fd = parent
    return found


# ends


@pytest.mark.parametrize(("last", "status"), [("true", "success"), ("exit 3", "failed")])
def test_container_ends_with_the_job(gitlab: GitLab, api: str, mark: str, last: str, status: str) -> None:
    seen: list[int] = []
    replay = gitlab.replay(dind(_behind(mark), last), log=when_logged("container is up", lambda: seen.extend(sleeping(mark))))
    result = replay.run()
    assert result.status == status, result.log.decode()
    assert len(seen) >= 1
    assert sleeping(mark) == []
    assert gitlab.engine.leftovers() == []


def test_container_ends_with_a_cancelled_job(gitlab: GitLab, api: str, mark: str) -> None:
    replays: list[Replay] = []
    payload = dind(_behind(mark), "sleep 4711")
    replays.append(gitlab.replay(payload, log=when_logged("container is up", lambda: replays[0].cancel())))
    result = replays[0].run()
    assert result.status == "canceled", result.log.decode()
    assert sleeping(mark) == []
    assert gitlab.engine.leftovers() == []


def test_container_ends_with_a_job_that_takes_too_long(gitlab: GitLab, api: str, mark: str) -> None:
    result = gitlab.play(dind(_behind(mark), "sleep 4711", timeout=15))
    assert result.failure_reason == "job_execution_timeout"
    assert "container is up" in result.log.decode()
    assert sleeping(mark) == []


def test_container_ends_with_the_keeper_that_is_killed(gitlab: GitLab, api: str, mark: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        _up(attempt, mark)
        os.kill(_keeper(gitlab.engine), signal.SIGKILL)
        assert wait_until(lambda: not sleeping(mark))
    assert gitlab.engine.leftovers() == []


def test_whatever_of_the_job_is_killed_the_container_ends_with_it(gitlab: GitLab, api: str, mark: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        _up(attempt, mark)
        (container,) = sleeping(mark)
        for pid in _family(_keeper(gitlab.engine)):  # engine, monitors, shims, proxies
            if pid != container:
                _kill(pid)
    assert wait_until(lambda: not sleeping(mark))
    assert wait_until(lambda: gitlab.engine.leftovers() == [])


def test_container_ends_with_a_stage_that_was_killed_and_a_cleanup(gitlab: GitLab, api: str, mark: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        call = start_until(attempt, "container is up", _behind(mark), "sleep 4711")
        call.signal_group(signal.SIGKILL)
        attempt.cleanup()
        assert call.ended(10)
        assert sleeping(mark) == []
        assert gitlab.engine.leftovers() == []


def test_engine_that_was_killed_leaves_a_store_that_the_next_job_can_use(gitlab: GitLab, api: str, mark: str) -> None:
    with gitlab.prepared(dind()) as attempt:
        _up(attempt, mark)
        build = f"printf 'FROM {BASE}\\nRUN sleep {mark}1\\n' | docker build -t made -"
        call = start_until(attempt, "RUN", build)
        assert wait_until(lambda: sleeping(f"{mark}1") or _sleeping_in_shell(f"{mark}1")), text_of(attempt)
        os.kill(_keeper(gitlab.engine), signal.SIGKILL)
        attempt.finish("build_script", call)
    with gitlab.prepared(dind()) as attempt:
        assert output(attempt, f"docker ps -aq; docker run --rm {BASE} echo fine").endswith("fine\n")


def _sleeping_in_shell(mark: str) -> list[int]:
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if f"sleep {mark}".encode() in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # ended with another one


# ids


def test_everything_that_the_api_starts_has_ids_of_the_build_user(gitlab: GitLab, api: str, mark: str) -> None:
    start = build_users.available(accounts.current())[0][0]
    slice_ = range(start, start + 65536)
    run = f"docker run -d --privileged --user 1000:1000 {BASE} sleep {mark}"
    with gitlab.prepared(dind()) as attempt:
        _up(attempt, mark)
        output(attempt, run)
        assert wait_until(lambda: len(sleeping(mark)) == 2)
        keeper = _keeper(gitlab.engine)
        own = os.stat(f"/proc/{keeper}/ns/pid").st_ino
        # beside the keeper are the job's network and what waits for the API's container: ours, and not to be talked to from within
        family = [pid for pid in _family(keeper) if _namespaces(pid)[:1] != [own]]
        beside = {_command(pid).partition(b"\0")[0] for pid in _family(keeper) if pid not in family}
        assert beside <= {b"slirp4netns", b"crun", b"sh", b"cat"}
        assert set(sleeping(mark)) <= set(family)
        assert [(_command(pid), _ids(pid)) for pid in family if any(each not in slice_ for each in _ids(pid))] == []
        assert len(family) > 4  # an engine and what it starts for a container are among them


def _ids(pid: int) -> list[int]:
    """Return the real, effective, saved and file system ids of a process, none if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    return [int(word) for line in text.splitlines() if line.startswith(("Uid:", "Gid:")) for word in line.split()[1:]]


# reach


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def _answers(address: str) -> bool:
    """Tell whether an API answers: on its way out a packet may meet a proxy that takes every connection."""
    try:
        with socket.create_connection((address, 2375), 2) as connection:
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"Api-Version" in connection.recv(65536)
    except OSError:
        return False


def test_api_and_published_ports_are_not_reached_from_the_host(gitlab: GitLab, api: str, mark: str) -> None:
    with gitlab.prepared(dind(variables={"DOCKER_TLS_CERTDIR": "/certs"})) as attempt:
        _up(attempt, mark)
        own = [(host, port) for host in ("127.0.0.1", outward_address()) for port in (2375, 2376, 18473) if _listens(host, port)]
        jobs = [f"10.99.0.{number}" for number in range(1, 6) if _answers(f"10.99.0.{number}")]
    assert (own, jobs) == ([], [])


def test_api_of_a_job_is_not_reached_from_another_job(gitlab: GitLab, api: str, mark: str) -> None:
    probe = f"""python3 - <<'END'
import socket
for address in [f"10.99.0.{{number}}" for number in range(1, 20)] + ["10.99.255.2", "{outward_address()}"]:
    for port in (2375, 2376, 18473):
        try:
            socket.create_connection((address, port), 0.2)
            print("reached", address, port)
        except OSError:
            pass
END"""
    with gitlab.prepared(dind(project=7)) as attempt:
        _up(attempt, mark)
        with gitlab.prepared(job(project=8)) as stranger:
            assert output(stranger, probe) == ""
            assert output(stranger, "ls /var/run/docker.sock 2>/dev/null || true") == ""


def test_privileged_container_has_nothing_of_the_host(gitlab: GitLab, api: str, probe: Path) -> None:
    attack = f"ls /host/var/lib/dpkg 2>/dev/null; echo changed > /host{probe}/file; mknod /d b 8 0 && cat /d; cat /host/etc/shadow"
    with gitlab.prepared(dind()) as attempt:
        output(attempt, f"docker run --rm --privileged --pid host --network host -v /:/host {BASE} sh -c '{attack}' || true")
        shown = output(attempt, f"docker run --rm --privileged -v /:/host {BASE} sh -c 'ls /host/var/lib; cat /host/etc/passwd'")
    assert (probe / "file").read_text() == "untouched"
    assert "dpkg" not in shown
    assert accounts.current().name not in shown
