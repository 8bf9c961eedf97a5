"""`kill -9` of the program alone, in any phase: no process outlives it for long, and the next job or `dockless gc` removes the rest."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from runner.job import keeper
from tests.support.defences import attack, without
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.faults import half_written
from tests.support.gitlab_calls import Call
from tests.support.gitlab_jobs import GitLab, job, output, start_until, text_of
from tests.support.images import BuiltImage, build_image, busybox_layer, directory, file, write_oci_layout
from tests.support.registries import Answer, LyingRegistry, Request

Remove = Callable[[GitLab], object]

# what a person, and what a runner, does next
REMOVERS: dict[str, Remove] = {
    "gc": lambda gitlab: _succeed(gitlab.engine, "gc"),
    "next job": lambda gitlab: gitlab.play(job()),
    "next run": lambda gitlab: _succeed(gitlab.engine, "run", "--image", "toolbox", "--", "true"),
}


def _succeed(engine: Engine, *arguments: str) -> None:
    result = engine.run(*arguments)
    assert result.code == 0, result.err


class Images(NamedTuple):
    """Sources whose images take their time: one to come over the network, one to unpack."""

    endless: str
    large: str
    asked: list[Request]

    def is_pulling(self) -> bool:
        return any("/blobs/" in request.path for request in self.asked)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Return an image of so many files that unpacking it can be watched."""
    return build_image([busybox_layer(), [directory("many"), *(file(f"many/{number}") for number in range(8_000))]])


@pytest.fixture
def slow(gitlab: GitLab, large: BuiltImage, tmp_path: Path) -> Iterator[Images]:
    """Serve a registry that never sends a layer, and an image that is large."""
    write_oci_layout(tmp_path / "large", large)
    registry = LyingRegistry()
    image = build_image([busybox_layer()])
    registry.add(image, "team/app", "v1")

    def stall(request: Request, answer: Answer) -> Answer | None:
        return answer._replace(delay_s=60.0) if image.layer_digests[0] in request.path else None

    registry.lie = stall
    with registry.running() as (host, asked):
        gitlab.configure(registries={host: {"plain_http": True}}, gitlab={"wait_for_services_timeout": -1})
        yield Images(f"{host}/team/app:v1", f"oci:{tmp_path}/large", asked)


def has_job(engine: Engine) -> bool:
    return any(engine.state.glob("jobs/*/state.json"))


def has_young_keeper(engine: Engine) -> bool:
    """Tell whether there is a first process of a PID namespace that still has the command line of its maker."""
    return any(
        b"NSpid:\t" in (status := _status(pid)) and status.split(b"NSpid:\t")[1].split()[1:2] == [b"1"] for pid in _processes(engine)
    )


def _processes(engine: Engine) -> list[int]:
    return processes_of(engine.state)


def _status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b""


def is_unpacking(engine: Engine) -> bool:
    return any(engine.state.glob("layers/*/.[!.]*"))


def is_starting_services(engine: Engine) -> bool:
    return any(engine.state.glob("jobs/*/logs/*.log"))


def soon(condition: Callable[[], object]) -> bool:
    """Wait like `wait_until`, and notice within a millisecond."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


# `gitlab prepare`


def start_prepare(gitlab: GitLab, image: str) -> Call:
    call = gitlab.replay(job(image=image, services=[{"name": "toolbox", "command": ["sleep", "4712"]}])).attempt().start_prepare()
    assert isinstance(call, Call)
    return call


def killed_prepare(gitlab: GitLab, image: str, phase: Callable[[], object]) -> None:
    """Kill a prepare, and nothing but it, as soon as it is in a phase; then nothing of it may run."""
    call = start_prepare(gitlab, image)
    assert soon(phase)
    call.process.kill()
    assert call.ended(10), "somebody holds the pipes of the stage"
    assert call.process.returncode == -signal.SIGKILL
    assert wait_until(lambda: processes_of(gitlab.engine.state) == [])
    assert gitlab.engine.jobs() != []


PHASES: dict[str, Callable[[Engine, Images], object]] = {
    "job": lambda engine, _: has_job(engine),
    "keeper": lambda engine, _: has_young_keeper(engine),
    "pull": lambda _, images: images.is_pulling(),
}


@attack(
    47,
    without(
        "runner/job/gc.py",
        "if current and current.keeper.pid and current.keeper.is_alive() and not state.is_orphaned(current):",
        "if current:",
    ),
)
@pytest.mark.parametrize("remover", ["gc", "next job"])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_prepare_is_removed(gitlab: GitLab, slow: Images, phase: str, remover: str) -> None:
    killed_prepare(gitlab, slow.endless, lambda: PHASES[phase](gitlab.engine, slow))
    REMOVERS[remover](gitlab)
    assert gitlab.engine.leftovers() == []


def test_prepare_killed_while_it_pulls_leaves_no_half_written_blob_after_gc(gitlab: GitLab, slow: Images) -> None:
    killed_prepare(gitlab, slow.endless, slow.is_pulling)
    REMOVERS["gc"](gitlab)
    assert half_written(gitlab.engine) == []
    assert gitlab.engine.run("images").out.count("\n") == 1


@pytest.mark.parametrize("remover", ["gc", "next job"])
def test_prepare_killed_while_it_unpacks_leaves_no_half_written_layer(gitlab: GitLab, slow: Images, remover: str) -> None:
    killed_prepare(gitlab, slow.large, lambda: is_unpacking(gitlab.engine))
    REMOVERS[remover](gitlab)
    assert gitlab.engine.leftovers() == []
    with gitlab.prepared(job(image=slow.large)) as attempt:
        assert output(attempt, "ls /many | wc -l") == "8000\n"
        assert half_written(gitlab.engine) == []


@pytest.mark.parametrize("remover", ["gc", "next job"])
def test_prepare_killed_while_services_start_is_removed(gitlab: GitLab, slow: Images, remover: str) -> None:
    killed_prepare(gitlab, "toolbox", lambda: is_starting_services(gitlab.engine))
    REMOVERS[remover](gitlab)
    assert gitlab.engine.leftovers() == []


# `gitlab run`: only this program is killed, not its process group


@attack(
    47,
    without("runner/job/guard.py", "        else:\n            _end_children()\n", "        else:\n            pass\n"),
)
def test_processes_of_a_stage_end_with_the_program(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        before = set(processes_of(gitlab.engine.state))
        call = start_until(attempt, "ready", "setsid sleep 4711 & (trap '' HUP TERM; sleep 4711) & echo ready; sleep 4711")
        call.process.kill()
        assert call.ended(10), "somebody holds the pipes of the stage"
        assert wait_until(lambda: set(processes_of(gitlab.engine.state)) <= before)
        assert output(attempt, "ps -e -o args", stage="after_script").count("4711") == 0


@pytest.mark.parametrize("wait_s", [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1])
def test_stage_that_is_starting_ends_with_the_program(gitlab: GitLab, wait_s: float) -> None:
    with gitlab.prepared() as attempt:
        before = set(processes_of(gitlab.engine.state))
        for _ in range(3):
            call = attempt.start_stage("build_script", ["setsid sleep 4711 & sleep 4711"])
            time.sleep(wait_s)  # not to wait for something: to be somewhere in what has no visible states
            call.process.kill()
            assert call.ended(10), "somebody holds the pipes of the stage"
            assert wait_until(lambda: set(processes_of(gitlab.engine.state)) <= before)


def test_job_of_a_killed_stage_goes_on(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        call = start_until(attempt, "ready", "echo kept > /etc/of-the-job; echo ready; sleep 4711")
        call.process.kill()
        assert attempt.finish("build_script", call).returncode == -signal.SIGKILL
        assert output(attempt, "cat /etc/of-the-job", stage="after_script") == "kept\n"


# `gitlab cleanup`


@attack(
    47,
    without("runner/job/gc.py", "    cleanup.end(store, key, current, account)\n", "    pass\n"),
)
@pytest.mark.parametrize("remover", ["cleanup", "gc", "next job"])
def test_killed_cleanup_is_continued(gitlab: GitLab, remover: str) -> None:
    attempt = gitlab.replay(job(services=[{"name": "toolbox", "command": ["sleep", "4712"]}])).attempt()
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    assert attempt.prepare().failure is None, text_of(attempt)
    output(attempt, "mkdir -m 700 /etc/many; cd /etc/many; seq 20000 | xargs touch; chown -R 5:5 /etc/many")
    assert wait_until(lambda: keeper.find(attempt.job_env["DOCKLESS_JOB"]))  # a keeper has its name a moment after it was let go
    (own,) = keeper.find(attempt.job_env["DOCKLESS_JOB"])
    environment = {**gitlab.environment(), **attempt.job_env}
    with subprocess.Popen(gitlab.driver()["cleanup"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as program:
        assert soon(lambda: not own.is_alive())
        program.kill()
        assert program.stdout and program.stdout.read() == b""
    assert wait_until(lambda: processes_of(gitlab.engine.state) == [])
    assert gitlab.engine.jobs() != []
    removers: dict[str, Remove] = {**REMOVERS, "cleanup": lambda _: attempt.cleanup()}
    removers[remover](gitlab)
    assert gitlab.engine.leftovers() == []


# `dockless run` and `dockless pull`


@pytest.mark.parametrize("remover", ["gc", "next run"])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_run_is_removed(gitlab: GitLab, slow: Images, phase: str, remover: str) -> None:
    _kill(gitlab.engine, ["run", "--image", slow.endless, "--", "sleep", "4711"], lambda: PHASES[phase](gitlab.engine, slow))
    REMOVERS[remover](gitlab)
    assert gitlab.engine.leftovers() == []


@pytest.mark.parametrize("remover", ["gc", "next run"])
def test_run_killed_while_it_unpacks_leaves_no_half_written_layer(gitlab: GitLab, slow: Images, remover: str) -> None:
    _kill(gitlab.engine, ["run", "--image", slow.large, "--", "true"], lambda: is_unpacking(gitlab.engine))
    REMOVERS[remover](gitlab)
    assert gitlab.engine.leftovers() == []
    assert gitlab.engine.run("run", "--image", slow.large, "--", "sh", "-c", "ls /many | wc -l").out == "8000\n"
    assert half_written(gitlab.engine) == []


@attack(
    47,
    without("runner/job/gc_plan.py", "        if not part.in_use:\n", "        if False:\n"),
)
def test_killed_pull_leaves_nothing_after_gc(gitlab: GitLab, slow: Images) -> None:
    _kill(gitlab.engine, ["pull", slow.endless], slow.is_pulling)
    REMOVERS["gc"](gitlab)
    assert half_written(gitlab.engine) == []
    assert os.listdir(gitlab.engine.state / "blobs/sha256") == []


def test_killed_gc_can_be_repeated(gitlab: GitLab, slow: Images) -> None:
    engine = gitlab.engine
    assert engine.run("run", "--image", slow.large, "--", "true").code == 0
    for path in (engine.state / "images").iterdir():
        path.unlink()
    layers = len(list(engine.state.glob("layers/*/*")))
    _kill(engine, ["gc"], lambda: len(list(engine.state.glob("layers/*/*"))) < layers or not any(engine.state.glob("blobs/sha256/*")))
    REMOVERS["gc"](gitlab)
    assert half_written(engine) == []
    assert list(engine.state.glob("layers/*/*")) == []


def _kill(engine: Engine, arguments: list[str], phase: Callable[[], object]) -> None:
    """Kill a command as soon as it is in a phase; then nothing of it may run."""
    program = engine.start(*arguments)
    assert soon(phase)
    program.kill()
    program.communicate(timeout=10)
    assert program.returncode == -signal.SIGKILL
    assert wait_until(lambda: processes_of(engine.state) == [])
