"""The docker command of Jenkins Pipelines: what docker-workflow and durable-task ask of it, in their own words."""

import os
import pwd
import signal
import socket
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
    # the init passes the signal on: nobody waits for an hour
    assert agent.answer("stop", "--time=3600", container) == f"{container}\n"
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


@pytest.mark.parametrize("said_by", ["image", "option"])
def test_stop_sends_the_signal_that_the_image_or_the_option_says(agent: Agent, tmp_path: Path, said_by: str) -> None:
    image = build_image([busybox_layer()], {"StopSignal": "SIGINT"} if said_by == "image" else {})
    write_oci_layout(tmp_path / "stopping", image, "v1")
    options = ["--stop-signal", "INT"] if said_by == "option" else []
    script = "trap 'echo by INT; exit 0' INT; echo ready; while :; do sleep 0.1; done"
    container = agent.answer("run", "-d", *options, f"oci:{tmp_path / 'stopping'}:v1", "sh", "-c", script).strip()
    assert wait_until(lambda: agent.answer("logs", container) == "ready\n", 20)
    agent.answer("stop", "--time=3600", container)
    assert agent.answer("logs", container) == "ready\nby INT\n"
    agent.answer("rm", container)


def test_arguments_that_are_no_text_are_refused(agent: Agent, block: str) -> None:
    done = subprocess.run([os.fsencode(agent.program), b"exec", block.encode(), b"echo", b"\xff"], env=agent.environ(), capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"ERROR: docker: an argument is not UTF-8\n")


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


def test_sidecar_of_with_run_is_started_looked_at_and_removed(agent: Agent) -> None:
    begun = agent.sh("docker run -d --name side -l of=test toolbox sh -c 'echo ready; echo bad >&2; exec sleep 600'")
    assert begun.code == 0, begun
    container = begun.out.strip()
    assert len(container) == 64
    assert wait_until(lambda: agent.answer("logs", container) == "ready\nbad\n", 20)
    assert agent.answer("logs", "--tail", "1", "side") == "bad\n"
    assert agent.answer("ps", "-q") == f"{container[:12]}\n"
    assert agent.answer("ps", "--filter", "label=of=test", "--format", "{{.Names}} {{.Image}}") == "side toolbox\n"
    assert agent.docker("run", "-d", "--name", "side", "toolbox", "true").code == 125
    ended = agent.sh('docker stop "$JD_ID" && docker rm -f --volumes "$JD_ID"', {"JD_ID": container})
    assert ended.code == 0, ended
    assert agent.answer("ps", "-a", "-q") == ""


def test_linked_container_reaches_its_sidecar_by_name_and_outlives_nothing(agent: Agent) -> None:
    server = "while :; do echo pong | busybox nc -l -p 7000; done"
    sidecar = agent.sh(f"docker run -d --name base -e SECRET=s toolbox sh -c '{server}'").out.strip()
    container = agent.inside("toolbox", "--link", f"{sidecar}:db")
    ask = "for i in 1 2 3 4 5 6 7 8 9; do busybox nc db 7000 && exit 0; sleep 1; done; exit 1"
    assert agent.answer("exec", container, "sh", "-c", ask) == "pong\n"
    assert agent.answer("exec", container, "sh", "-c", ask.replace("db", "base")) == "pong\n"
    assert agent.answer("exec", container, "sh", "-c", "echo $SECRET; touch made; hostname") == f"\n{sidecar[:12]}\n"
    assert (agent.workspace / "made").stat().st_uid == os.getuid()
    assert "nc -l" not in agent.answer("top", container, "-eo", "pid,args")  # processes are each container's own
    assert sorted(agent.answer("ps", "-q", "--no-trunc").split()) == sorted([sidecar, container])
    assert agent.answer("inspect", "-f", "{{.Id}}", container[:6]) == f"{container}\n"
    agent.end(container)
    assert agent.answer("ps", "-q", "--no-trunc").split() == [sidecar]
    assert agent.answer("exec", sidecar, "echo", "still") == "still\n"
    second = agent.inside("toolbox", "--network", f"container:{sidecar}")
    agent.end(sidecar)
    assert agent.answer("exec", second, "echo", "still") == "still\n"
    agent.end(second)


def test_mounts_of_another_container_are_passed_on(agent: Agent) -> None:
    cache = agent.workspace.parent / "cache"
    cache.mkdir()
    first = agent.inside("toolbox", "-v", f"{cache}:/cache")
    agent.answer("exec", first, "sh", "-c", "echo of-first > file; echo cached > /cache/file")
    # as withDockerContainer does it where it believes that the agent is the first container
    ids, own = f"{os.getuid()}:{os.getgid()}", agent.workspace.parent / "own"
    own.mkdir()
    words = ["run", "-t", "-d", "-u", ids, "-w", str(agent.workspace), "-v", f"{own}:/cache", "--volumes-from", first, "toolbox", "cat"]
    second = agent.answer(*words).strip()
    assert agent.answer("exec", second, "sh", "-c", "cat file; ls /cache; echo x > more") == "of-first\n"
    assert (agent.workspace / "more").stat().st_uid == os.getuid()
    agent.end(second)
    read_only = agent.answer(*[f"{first}:ro" if word == first else word for word in words]).strip()
    assert agent.docker("exec", read_only, "sh", "-c", "echo x > again").code != 0
    agent.end(read_only)
    agent.end(first)


def test_mounts_that_are_a_containers_alone_or_no_longer_the_agents_are_not_passed_on(agent: Agent) -> None:
    place = agent.workspace.parent / "place"
    place.mkdir()
    first = agent.inside("toolbox", "-v", "kept:/named")
    second = agent.inside("toolbox", "-v", f"{place}:/place")
    assert "volume /named is one container's at a time" in agent.docker("run", "-d", "--volumes-from", first, "toolbox", "cat").err
    place.rename(place.with_name("moved"))
    place.symlink_to("/etc")
    result = agent.docker("run", "-d", "--volumes-from", second, "toolbox", "cat")
    assert (result.code, len(result.err.splitlines())) == (125, 1)
    assert "the host's configuration" in result.err
    agent.end(first)
    agent.end(second)


def test_published_port_leads_to_the_container_until_it_is_removed(agent: Agent) -> None:
    server = "while :; do busybox nc -l -p 7000 -e cat; done"
    container = agent.sh(f"docker run -d -p 7000 toolbox sh -c '{server}'").out.strip()
    place = agent.sh('docker port "$JD_ID" "$JD_PORT"', {"JD_ID": container, "JD_PORT": "7000"}).out.strip()
    assert place.startswith("0.0.0.0:")
    number = int(place.partition(":")[2])
    assert agent.answer("port", container) == f"7000/tcp -> {place}\n"
    assert agent.answer("inspect", "-f", '{{index .NetworkSettings.Ports "7000/tcp"}}', container) != ""

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", number), timeout=20) as client:
            try:
                client.sendall(b"x" * 300_000 + b"end")
                client.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: client.recv(65536), b""))
            except OSError:
                return b""

    assert wait_until(lambda: ask() == b"x" * 300_000 + b"end", 30)
    taken = agent.docker("run", "-d", "-p", f"{number}:80", "toolbox", "cat")
    assert taken.code == 125
    assert f"port 0.0.0.0:{number} of this machine cannot be published" in taken.err
    assert agent.docker("port", container, "81").code == 1
    agent.answer("rm", "-f", container)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), timeout=20)


def test_link_that_cannot_be_made_says_why(agent: Agent) -> None:
    first, second = (agent.answer("run", "-d", "toolbox", "sleep", "600").strip() for _ in range(2))
    result = agent.docker("run", "-d", "--link", first, "--link", second, "toolbox", "cat")
    assert (result.code, len(result.err.splitlines())) == (125, 1)
    assert "start the second of them with --link to the first" in result.err
    result = agent.docker("run", "-d", "-u", "0:0", "--link", first, "toolbox", "cat")
    assert "give both the same -u UID:GID" in result.err
    assert "no such container: nobody" in agent.docker("run", "-d", "--link", "nobody:x", "toolbox", "cat").err
    assert agent.docker("run", "-d", "--link", first, "toolbox", "no-such-program").code == 127
    for container in agent.answer("ps", "-aq").split():
        agent.answer("rm", "-f", container)


def test_options_of_run_reach_the_container(agent: Agent) -> None:
    script = (
        "echo $(id -G); ulimit -n; ulimit -Hn; ulimit -Hc; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2;"
        "grep CapBnd /proc/self/status; touch /new 2>/dev/null || echo read-only;"
        "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; grep other /etc/hosts"
    )
    options = (
        "--tmpfs", "/scratch:size=1m", "--shm-size", "8m", "--ulimit", "nofile=100:200", "--ulimit", "core=-1", "--group-add", "2000",
        "--cap-drop", "all", "--read-only", "--add-host", "other:10.1.2.3", "--rm=false", "--dns", "10.1.2.4",
    )  # fmt: skip
    container = agent.answer("run", "-d", *options, "toolbox", "sh", "-c", f"{script}; exec sleep 600").strip()
    expected = "0 2000\n100\n200\n0\n1024\nCapBnd:\t0000000000000000\nread-only\n8192\n10.1.2.3\tother\n"
    assert wait_until(lambda: agent.answer("logs", container) == expected, 20), agent.answer("logs", container)
    assert agent.answer("exec", container, "sh", "-c", "ulimit -n; id -G; cat /etc/resolv.conf") == "100\n0 2000\nnameserver 10.1.2.4\n"
    agent.answer("rm", "-f", container)


def test_run_in_the_foreground_passes_output_and_code(agent: Agent) -> None:
    assert agent.docker("run", "--rm", "toolbox", "sh", "-c", "echo out; exit 9")[:2] == (9, "out\n")
    assert agent.docker("run", "--rm", "-i", "toolbox", "cat", stdin="in").out == "in"
    assert agent.docker("run", "--rm", "toolbox", "cat", stdin="in").out == ""
    assert agent.docker("run", "--rm", "--entrypoint", "", "toolbox", "echo", "x").out == "x\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--privileged", "-d", "toolbox", "cat"], 125, "--privileged is refused"),
        (["run", "-d", "--pid=host", "toolbox", "cat"], 125, "--pid=host is refused"),
        (["run", "-d", "--net", "host", "toolbox", "cat"], 125, "--net=host is refused"),
        (["run", "-d", "--ipc=host", "toolbox", "cat"], 125, "--ipc=host is refused"),
        (["run", "-d", "--device", "/dev/kvm", "toolbox", "cat"], 125, "--device is refused"),
        (["run", "-d", "--cap-add", "SYS_ADMIN", "toolbox", "cat"], 125, "--cap-add=SYS_ADMIN is refused"),
        (["run", "-d", "--security-opt", "seccomp=unconfined", "toolbox", "cat"], 125, "--security-opt=seccomp=unconfined"),
        (["run", "-d", "-v", "/var/run/docker.sock:/var/run/docker.sock", "toolbox", "cat"], 125, "sockets"),
        (["run", "-d", "-v", "/:/host", "toolbox", "cat"], 125, "the host's root"),
        (["run", "-d", "-v", "/etc:/x", "toolbox", "cat"], 125, "the host's configuration"),
        (["run", "-d", "-v", "/usr/share:/x", "toolbox", "cat"], 125, "does not belong to the agent's account"),
        (["run", "-d", "--tmpfs", "/proc/self", "toolbox", "cat"], 125, "--tmpfs"),
        (["run", "-d", "--tmpfs", "/x:size=1m,rbind", "toolbox", "cat"], 125, "--tmpfs option 'rbind' is not served"),
        (["run", "-d", "--volumes-from", "nobody", "toolbox", "cat"], 125, "no such container: nobody"),
        (["run", "-d", "--volumes-from", "x:exec", "toolbox", "cat"], 125, "write CONTAINER[:ro]"),
        (["run", "-d", "--what", "toolbox", "cat"], 125, "option --what is not served"),
        (["run", "-d"], 125, "no image is named"),
        (["run", "-d", "toolbox", "no-such-program"], 127, "no-such-program: program not found"),
        *(
            ([verb, "x", "y"], 1, f"docker {verb} is not served by dockless")
            for verb in ("commit", "cp", "wait", "start", "create", "network")
        ),
        (["build", "-t", "x", "--secret", "id=missing", "."], 1, "secret 'id=missing' names no file or variable"),
        (["build", "-t", "x", "--ssh", "default", "."], 1, "--ssh is refused"),
        (["-H", "tcp://other:2375", "ps"], 1, "-H is refused"),
        (["exec", "0123456789abcdef", "true"], 1, "no such container: 0123456789abcdef"),
        (["top", "nobody"], 1, "no such container: nobody"),
        (["stop", "nobody"], 1, "no such container: nobody"),
    ],
)
def test_what_is_not_served_says_so_in_one_line(agent: Agent, arguments: list[str], code: int, words: str) -> None:
    result = agent.docker(*arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert len([line for line in result.err.splitlines() if not line.startswith("(")]) == 1
    assert agent.answer("ps", "-aq") == ""


def test_another_machines_docker_is_never_run_here_instead(agent: Agent) -> None:
    environ = {"DOCKER_HOST": "tcp://other:2376", "DOCKER_TLS_VERIFY": "1"}
    result = agent.docker("run", "-d", "toolbox", "cat", env=environ)
    assert result.code == 125
    assert "DOCKER_HOST is tcp://other:2376" in result.err
    assert len(result.err.splitlines()) == 1
    assert agent.docker("-v", env=environ).code == 0
    assert agent.answer("ps", "-aq") == ""


def test_caches_are_made_in_the_agents_home_and_secrets_are_not_shown(agent: Agent) -> None:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert agent.docker("run", "-d", "-v", f"{home}/.ssh:/x", "toolbox", "cat").code == 125
    assert agent.docker("run", "-d", "-v", f"{home}/.config/new/deep:/x", "toolbox", "cat").code == 125
    assert not (home / ".config" / "new").exists()
    cache = agent.workspace.parent / "cache" / "of-maven"
    container = agent.inside("toolbox", "-v", f"{cache}:/cache")
    agent.answer("exec", container, "touch", "/cache/found")
    assert (cache / "found").exists()
    agent.end(container)


def test_roots_of_the_installation_are_the_only_mounts(engine: Engine, tmp_path: Path) -> None:
    agent = install(engine, tmp_path, "--root", str(tmp_path))
    (tmp_path.parent / f"{tmp_path.name}-other").mkdir()
    result = agent.docker("run", "-d", "-v", f"{tmp_path}-other:/x", "toolbox", "cat")
    assert result.code == 125
    assert "is not one of the directories that install-docker-shim was given" in result.err
    agent.end(agent.inside("toolbox"))


def test_installing_replaces_only_a_docker_of_ours(engine: Engine, tmp_path: Path) -> None:
    agent = install(engine, tmp_path)
    assert engine.run("jenkins", "install-docker-shim", str(tmp_path / "bin")).code == 0
    agent.program.write_text("#!/bin/sh\n")
    result = engine.run("jenkins", "install-docker-shim", str(tmp_path / "bin"))
    assert result.code == 1
    assert "is there already and is not dockless's" in result.err


def test_keeper_that_was_killed_is_a_container_that_does_not_run(agent: Agent) -> None:
    container = agent.inside("toolbox")
    for pid in processes_of(agent.engine.state):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"dockless: keeper"):
            os.kill(pid, signal.SIGKILL)  # and the kernel ends all others
            break
    assert agent.docker("exec", container, "true").code == 1
    agent.end(container)
    assert agent.engine.leftovers() == []
