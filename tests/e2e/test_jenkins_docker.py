"""The docker command of Jenkins Pipelines: what docker-workflow and durable-task ask of it, in their own words."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_shim import COOKIE, Agent, Step, install
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.images import build_image, busybox_layer, write_oci_layout

WITHOUT = ("bin/ps", "bin/nohup", "bin/kill")


@pytest.fixture
def agent(engine: Engine, tmp_path: Path) -> Agent:
    return install(engine, tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An image without ps, nohup and kill."""
    image = build_image([[entry for entry in busybox_layer() if entry.name not in WITHOUT]], {"Cmd": ["/bin/sh"]})
    write_oci_layout(tmp_path / "layout", image, "v1")
    return f"oci:{tmp_path / 'layout'}:v1"


@pytest.fixture
def block(agent: Agent) -> Iterator[str]:
    """A container in which a block of a Pipeline runs."""
    container = agent.inside("toolbox")
    yield container
    agent.end(container)


def test_block_runs_its_processes_as_the_workspaces_owner(agent: Agent, block: str) -> None:
    assert len(block) == 64
    assert set(block) <= set("0123456789abcdef")
    script = "id -u; id -g; pwd; echo $BUILD_ID $MORE; umask; echo made > file; mkdir -p a/b; touch a/b/c"
    assert agent.answer("exec", "--env", "MORE=1=2", block, "sh", "-c", script).splitlines() == [
        str(os.getuid()), str(os.getgid()), str(agent.workspace), "7 1=2", "0022",
    ]  # fmt: skip
    made = (agent.workspace / "file").stat()
    assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())
    assert agent.sh("rm -r a file").code == 0  # the agent can clean up after it


def test_later_user_of_the_arguments_wins(agent: Agent) -> None:
    container = agent.inside("toolbox", "-u", "root")
    assert agent.answer("exec", container, "sh", "-c", "id -u; touch by-root; stat -c %u by-root") == "0\n0\n"
    assert (agent.workspace / "by-root").stat().st_uid == os.getuid()
    agent.end(container)


@pytest.mark.parametrize("options", [["--version"], ["-v"]])
def test_version_is_what_docker_workflow_can_read(agent: Agent, options: list[str]) -> None:
    version = agent.answer(*options)
    assert version.startswith("Docker version 27.0.0, build ")


def test_top_lists_cat_and_every_line_has_two_words(agent: Agent, block: str) -> None:
    head, *lines = agent.answer("top", block, "-eo", "pid,comm").splitlines()
    assert head.split() == ["PID", "COMMAND"]
    assert all(len(line.split()) == 2 for line in lines)
    assert "cat" in [line.split()[1] for line in lines]
    assert " cat" in agent.answer("top", block)


def test_exec_passes_stdio_and_exit_codes(agent: Agent, block: str) -> None:
    result = agent.docker("exec", block, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert result == (7, "out\n", "err\n")
    assert agent.docker("exec", block, "sh", "-c", "kill -9 $$").code == 137
    assert agent.docker("exec", block, "no-such-program").code == 127
    assert agent.docker("exec", "-i", block, "cat", stdin="typed\n").out == "typed\n"
    assert agent.docker("exec", block, "cat", stdin="not for it\n").out == ""
    assert agent.docker("exec", "--workdir", "/tmp", block, "pwd").out == "/tmp\n"


def test_exec_is_fenced_as_its_container_is(agent: Agent, block: str) -> None:
    of = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status; readlink /proc/self/ns/user /proc/self/ns/pid /proc/self/ns/net"
    own = agent.answer("exec", block, "sh", "-c", of)
    first = agent.answer("exec", block, "sh", "-c", of.replace("self", "2"))  # cat, below the init
    assert own == first
    assert "Seccomp:\t2\n" in own
    assert "CapEff:\t0000000000000000\n" in own
    assert agent.docker("exec", block, "sh", "-c", "ls -A /proc/kcore /proc/keys; echo x > /proc/sysrq-trigger").code != 0


def test_inspect_knows_the_container_and_the_image(agent: Agent, block: str) -> None:
    assert agent.answer("inspect", "-f", ".", "toolbox") == ".\n"
    assert agent.docker("inspect", "-f", ".", "no-such-image").code == 1
    assert agent.answer("inspect", "-f", "{{.Id}}", block[:12]) == f"{block}\n"
    assert agent.answer("inspect", "-f", "{{.Config.Hostname}} {{.Config.Image}}", block) == f"{block[:12]} toolbox\n"
    created = agent.answer("inspect", "-f", "{{json .Created}}", block)
    assert created.startswith('"20')
    assert created.endswith('Z"\n')
    mounts = agent.answer("inspect", "-f", "{{range.Mounts}}{{.Destination}}\n{{end}}", block).split("\n")
    assert {str(agent.workspace), str(agent.temporary)} <= set(mounts)
    name = agent.answer("inspect", "-f", "{{.Name}}", block).strip()
    assert agent.answer("inspect", "-f", "{{.State.Running}}", name.removeprefix("/")) == "true\n"


@pytest.mark.parametrize("image", ["toolbox", "bare"])
def test_sh_step_outlives_the_exec_that_started_it(agent: Agent, bare: str, image: str) -> None:
    container = agent.inside(bare if image == "bare" else image)
    step = Step(agent.temporary / "durable-1a2b3c4d")
    assert step.begin(agent, container, "sleep 2; echo hello from $JENKINS_SERVER_COOKIE; exit 3").code == 0
    assert not step.result.exists()  # docker has returned, and the script goes on
    assert wait_until(step.result.exists, 30)
    assert step.result.read_text() == "3\n"
    assert f"hello from {COOKIE}" in step.log.read_text()
    agent.end(container)


def test_log_of_a_step_is_touched_while_it_says_nothing(agent: Agent, block: str) -> None:
    step = Step(agent.temporary / "durable-1a2b3c4d")
    step.begin(agent, block, "sleep 600")
    assert wait_until(step.log.exists, 20)
    before = step.log.stat().st_mtime
    assert wait_until(lambda: step.log.stat().st_mtime >= before + 2, 30)


def test_parallel_steps_each_have_their_result(agent: Agent, block: str) -> None:
    steps = [Step(agent.temporary / f"durable-0000000{number}") for number in range(4)]
    started = [
        subprocess.Popen([str(agent.program), "exec", block, *step.argv(f"sleep 1; exit {number}")], env=agent.environ())
        for number, step in enumerate(steps)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    assert wait_until(lambda: all(step.result.exists() for step in steps), 40)
    assert [step.result.read_text() for step in steps] == [f"{number}\n" for number in range(4)]
    # the first process of the container reaps what the steps leave
    assert wait_until(lambda: len(agent.answer("top", block, "-eo", "pid,stat").splitlines()) == 3, 30)
    assert "Z" not in agent.answer("top", block, "-eo", "pid,stat").partition("\n")[2]


@pytest.mark.parametrize("image", ["toolbox", "bare"])
def test_abort_finds_the_step_by_its_cookie_and_ends_it(agent: Agent, bare: str, image: str) -> None:
    container = agent.inside(bare if image == "bare" else image)
    step = Step(agent.temporary / "durable-1a2b3c4d")
    step.begin(agent, container, "trap 'echo ended by TERM; exit 143' TERM; while :; do sleep 0.2; done")
    assert wait_until(lambda: step.log.exists() and "sleep" in step.log.read_text(), 30)
    lines = agent.answer("exec", container, "ps", "-A", "-o", "pid,command", "e").splitlines()
    assert lines[0].split() == ["PID", "COMMAND"]
    pids = [line.split()[0] for line in lines if f"JENKINS_SERVER_COOKIE={COOKIE}" in line]
    assert pids
    assert all("please-do-not-kill-me" in line for line in lines if "jsc=" in line)
    agent.docker("exec", container, "kill", *pids)  # one of them may have ended by itself meanwhile
    assert wait_until(step.result.exists, 30)
    assert step.result.read_text() == "143\n"
    assert "ended by TERM" in step.log.read_text()
    agent.end(container)


def test_kill_has_the_rights_of_the_containers_user(agent: Agent, block: str) -> None:
    assert agent.docker("exec", "-d", "-u", "root", block, "sleep", "600").code == 0

    def sleeper() -> str:
        lines = agent.answer("top", block, "-eo", "pid,args").splitlines()
        return next((line.split()[0] for line in lines if line.endswith("sleep 600")), "")

    assert wait_until(sleeper, 20)
    result = agent.docker("exec", block, "kill", sleeper())
    assert (result.code, result.err) == (1, f"kill: ({sleeper()}) - Operation not permitted\n")
    result = agent.docker("exec", block, "kill", "4999999")
    assert (result.code, result.err) == (1, "kill: (4999999) - No such process\n")


def test_stop_ends_every_process_and_rm_leaves_nothing(agent: Agent) -> None:
    container = agent.inside("toolbox")
    agent.answer("exec", "-d", container, "sleep", "600")
    began = time.monotonic()
    assert agent.answer("stop", "--time=60", container) == f"{container}\n"
    assert time.monotonic() - began < 50  # the init passes the signal on: the grace is not used up
    assert agent.answer("stop", "--time=1", container) == f"{container}\n"
    result = agent.docker("exec", container, "true")
    assert result.code == 1
    assert f"container {container[:12]} is not running" in result.err
    assert agent.answer("inspect", "-f", "{{.State.Running}}", container) == "false\n"
    assert agent.answer("rm", "-f", "--volumes", container) == f"{container}\n"
    assert agent.engine.leftovers() == []
    assert agent.answer("rm", "-f", "--volumes", container) == f"{container}\n"
    result = agent.docker("rm", container)
    assert (result.code, result.out) == (1, "")
    assert "no such container" in result.err


def test_rm_refuses_what_runs_unless_it_is_forced(agent: Agent, block: str) -> None:
    result = agent.docker("rm", block)
    assert result.code == 1
    assert "is running" in result.err
    assert agent.answer("exec", block, "echo", "still here") == "still here\n"


def test_killed_exec_leaves_what_it_started(agent: Agent, block: str) -> None:
    begun = subprocess.Popen([str(agent.program), "exec", block, "sh", "-c", "sleep 3; touch survived"], env=agent.environ())
    assert wait_until(lambda: "sleep 3" in agent.answer("top", block, "-eo", "pid,args"), 30)
    begun.send_signal(signal.SIGKILL)
    begun.wait(10)
    assert wait_until((agent.workspace / "survived").exists, 30)


@pytest.mark.parametrize("after_s", [0.03, 0.06, 0.1, 0.15, 0.2, 0.3])
def test_run_that_is_killed_leaves_a_container_or_nothing(agent: Agent, after_s: float) -> None:
    mark = agent.workspace / "id"
    with mark.open("w") as out:
        begun = subprocess.Popen([str(agent.program), "run", "-t", "-d", "toolbox", "cat"], env=agent.environ(), stdout=out)
        time.sleep(after_s)
        begun.send_signal(signal.SIGKILL)
        begun.wait(10)
    known = agent.answer("ps", "-aq", "--no-trunc").split()
    assert set(mark.read_text().split()) <= set(known)
    for container in known:
        agent.answer("rm", "-f", container)
    assert agent.engine.run("gc").code == 0
    assert wait_until(lambda: agent.engine.leftovers() == [], 20), agent.engine.leftovers()


def test_keeper_that_was_killed_is_a_container_that_does_not_run(agent: Agent) -> None:
    container = agent.inside("toolbox")
    for pid in processes_of(agent.engine.state):
        os.kill(pid, signal.SIGKILL)
    assert agent.docker("exec", container, "true").code == 1
    agent.end(container)
    assert agent.engine.leftovers() == []
