"""An agent of Jenkins in a container, started as Jenkins starts agents: the channel, the ways to end, and one agent for each name."""

import hashlib
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from tests.support import images
from tests.support.engine import Engine, processes_of, wait_until
from tests.support.jenkins_controller import PREAMBLE, Controller

SOAK_BYTES = int(os.environ.get("DOCKLESS_SOAK_MIB", "64")) * 1024**2
_CHUNK = 1024**2
_PREAMBLE = PREAMBLE.decode().replace("\0", "\\0")
_ECHO = f"""printf '{_PREAMBLE}'; exec cat"""

# as remoting's Main does it: stdout is the channel's from now on, and System.out the log's
_JAVA = """
import java.io.*;
public class Agent {
    public static void main(String[] words) throws IOException {
        OutputStream channel = new FileOutputStream(FileDescriptor.out);
        System.setOut(System.err);
        channel.write("<===[JENKINS REMOTING CAPACITY]===>rO0ABXNyABpodWRzb24ucmVtb3RpbmcuQ2FwYWJpbGl0eQ==\\0\\0\\0\\0".getBytes());
        System.out.println(java.nio.charset.Charset.defaultCharset() + " " + System.getProperty("user.home") + " \\u00fc console="
            + (System.console() != null));
        InputStream in = new FileInputStream(FileDescriptor.in);
        byte[] block = new byte[65536];
        for (int size; (size = in.read(block)) > 0; ) channel.write(block, 0, size);
    }
}
"""


class Node:
    """A node of the stand-in controller, whose agent dockless runs."""

    def __init__(self, engine: Engine, root: Path, name: str = "node 1") -> None:
        self.engine, self.root, self.name = engine, root, name

    def start(self, script: str, *options: str, url: str = "", wrap: Callable[[list[str]], list[str]] = list) -> Controller:
        """Start a shell script as the agent, with the command as an administrator has written it."""
        return self.launch("sh", "-c", script, options=options, url=url, wrap=wrap)

    def launch(
        self,
        *argv: str,
        options: tuple[str, ...] = (),
        url: str = "",
        env: dict[str, str] | None = None,
        wrap: Callable[[list[str]], list[str]] = list,
    ) -> Controller:
        """Start any command as the agent; `wrap` may put a program before it that watches it."""
        image = () if "--image" in options else ("--image", "toolbox")
        command = shlex.join(wrap(self.engine.argv("jenkins", "agent", *image, "--network", "none", *options, "--", *argv)))
        return Controller(command, root=self.root, name=self.name, environ=self.engine.environ(env), url=url)


@pytest.fixture
def node(engine: Engine, tmp_path: Path) -> Node:
    return Node(engine, tmp_path / "agent")


def _send(stream: IO[bytes], size: int) -> str:
    """Write that many bytes, of every value, and return their digest."""
    digest, source = hashlib.sha256(), random.Random(6).randbytes(_CHUNK)
    for number in range(size // _CHUNK):
        block = source[number % _CHUNK :] + source[: number % _CHUNK]
        digest.update(block)
        view = memoryview(block)
        while view:
            view = view[stream.write(view) or 0 :]
    return digest.hexdigest()


def _receive(stream: IO[bytes], *, pause_s: float = 0.0) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_CHUNK):
        digest.update(block)
        size += len(block)
        if pause_s and size < 4 * _CHUNK:
            time.sleep(pause_s)
    return digest.hexdigest(), size


def test_channel_is_byte_exact_both_ways(node: Node) -> None:
    agent = node.start(_ECHO)
    assert agent.handshake() == b""
    sent: list[str] = []
    received = agent.exchange(lambda stream: sent.append(_send(stream, SOAK_BYTES)), _receive)
    assert received == (sent[0], SOAK_BYTES)
    assert (agent.wait(), agent.log()) == (0, "")


def test_our_own_words_go_to_the_log_and_never_into_the_channel(node: Node) -> None:
    agent = node.launch("sh", "-c", _ECHO, "-secret", "abc")
    assert agent.handshake() == b""
    assert agent.exchange(lambda stream: None, _receive)[1] == 0
    assert agent.wait() == 0
    assert "write it to a file" in agent.log()


def test_junk_before_the_preamble_and_stderr_arrive_as_the_agent_wrote_them(node: Node) -> None:
    agent = node.start(f"printf 'Welcome\\n\\377'; echo to the log >&2; {_ECHO}")
    assert agent.handshake() == b"Welcome\n\xff"
    assert agent.exchange(lambda stream: stream.write(b"x" * 10), _receive)[1] == 10
    assert (agent.wait(), agent.log()) == (0, "to the log\n")


def test_slow_reader_loses_nothing(node: Node) -> None:
    agent = node.start(_ECHO)
    agent.handshake()
    sent: list[str] = []
    received = agent.exchange(lambda stream: sent.append(_send(stream, 8 * _CHUNK)), lambda stream: _receive(stream, pause_s=0.1))
    assert received == (sent[0], 8 * _CHUNK)
    assert agent.wait() == 0


def test_agent_that_ignores_the_end_of_its_channel_is_ended(node: Node) -> None:
    agent = node.start(f"printf '{_PREAMBLE}'; trap '' HUP; sleep 1000 & sleep 1000")
    agent.handshake()
    agent.stdin.close()
    assert agent.wait() in (129, 143)


def test_sigterm_reaches_the_agent_and_leaves_nothing(node: Node) -> None:
    agent = node.start(f"trap 'echo asked >&2; exit 7' TERM; printf '{_PREAMBLE}'; sleep 1000 & wait")
    agent.handshake()
    agent.process.terminate()
    assert agent.wait() == 7
    assert agent.log() == "asked\n"


def test_agent_that_ignores_sigterm_is_killed(node: Node) -> None:
    agent = node.start(f"trap '' TERM HUP; printf '{_PREAMBLE}'; while :; do sleep 1; done")
    agent.handshake()
    agent.process.terminate()
    assert agent.wait() == 137, agent.log()


def test_cookie_kill_ends_all(node: Node) -> None:
    agent = node.start(f"printf '{_PREAMBLE}'; setsid sleep 1000 & setsid -f sleep 1000; exec cat")
    agent.handshake()
    assert agent.marked()
    agent.kill()
    assert agent.wait() != 0
    assert agent.marked() == []


def test_wrapper_that_is_killed_takes_the_agent_along_and_the_next_start_works(node: Node) -> None:
    agent = node.start(f"printf '{_PREAMBLE}'; setsid sleep 1000 & exec sleep 1000")
    agent.handshake()
    agent.process.kill()
    agent.wait()
    assert wait_until(lambda: processes_of(node.engine.state) == [])
    again = node.start(_ECHO)
    assert again.handshake() == b""
    again.stdin.close()
    assert again.wait() == 0


def test_second_start_of_a_name_takes_over(node: Node) -> None:
    first = node.start(f"echo first > kept; printf '{_PREAMBLE}'; exec cat")
    first.handshake()
    second = node.start(f"printf '{_PREAMBLE}'; exec cat kept -")
    assert second.handshake() == b""
    assert first.wait() == 143
    assert "is running already" in second.log()
    assert second.exchange(lambda stream: stream.write(b"more"), lambda stream: stream.read(100) + stream.read(100)) == b"first\nmore"
    assert second.wait() == 0


def test_agents_of_other_names_are_left_alone(engine: Engine, tmp_path: Path) -> None:
    nodes = [Node(engine, tmp_path / "one", "one"), Node(engine, tmp_path / "two", "one!")]
    agents = [node.start(_ECHO) for node in nodes]
    for agent in agents:
        agent.handshake()
    for agent in agents:
        agent.stdin.close()
        assert agent.wait() == 0


def test_ssh_command_with_spaces_in_the_root(engine: Engine, tmp_path: Path) -> None:
    root = tmp_path / "remote root"
    root.mkdir()
    (root / "java").write_text('#!/bin/sh\nfor word; do echo "<$word>"; done; pwd; exec cat\n')
    (root / "java").chmod(0o755)
    prefix = f"{shlex.join(engine.argv('jenkins', 'agent', '--image', 'toolbox', '--network', 'none'))} -- sh -c '"
    suffix = ' -workDir "$PWD" -jar-cache "$PWD/remoting/jarCache"\''
    # what SSHLauncher makes of a node whose java is ./java; sshd gives it to the login shell
    command = f'{prefix}cd "{root}" && ./java  -jar remoting.jar{suffix}'
    done = subprocess.run(["sh", "-c", command], env=engine.environ(), input=b"to\xffand fro", capture_output=True, timeout=60, check=False)
    words = f"<-jar>\n<remoting.jar>\n<-workDir>\n<{root}>\n<-jar-cache>\n<{root}/remoting/jarCache>\n{root}\n".encode()
    assert (done.stdout, done.stderr, done.returncode) == (words + b"to\xffand fro", b"", 0)


def test_user_without_a_row_gets_one_and_its_files_are_the_accounts(node: Node, tmp_path: Path) -> None:
    layer = [images.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh"), images.directory("etc")]
    image = images.build_image([images.busybox_layer(), layer], {"User": "1234:77", "Env": [f"PATH={images.PATH}"]})
    images.write_oci_layout(tmp_path / "layout", image, "v1")
    agent = node.start(
        "id -u; id -un; echo ~jenkins $HOME $LANG; echo x > made; stat -c %u:%g made", "--image", f"oci:{tmp_path / 'layout'}:v1"
    )
    words = _text(agent)
    assert agent.wait() == 0, agent.log()
    assert words == f"1234\njenkins\n{node.root} {node.root} C.UTF-8\n1234:77\n"
    info = (node.root / "made").stat()
    assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())


def _text(agent: Controller) -> str:
    """Return what an agent that speaks no protocol says."""
    agent.stdin.close()
    with agent.stdout as stream:
        return stream.read(65536).decode() + b"".join(stream).decode()


def test_secrets_are_in_no_command_line_of_the_container(node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret-of-a-file\n")
    script = 'echo "$@"; for word; do case $word in @*) cat "${word#@}"; stat -c " %a %u" "${word#@}";; esac; done'
    for argv, env, options in [
        (("-url", "http://j/", "-secret", f"@{secret}"), {}, ()),
        (("-url", "http://j/"), {}, ("--secret-file", str(secret))),
        (("-url", "http://j/"), {"JENKINS_SECRET": "s3cret-of-a-file"}, ()),
        (("-url", "http://j/", "-secret", "s3cret-of-a-file"), {}, ()),
    ]:
        agent = node.launch("sh", "-c", script, "sh", *argv, env=env, options=options)
        words = _text(agent)
        assert agent.wait() == 0, agent.log()
        assert words.splitlines()[0] == "-url http://j/ -secret @/run/jenkins-agent/0"
        assert words.partition("\n")[2].replace("\n", "") == "s3cret-of-a-file 400 0"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workdir", "relative"), "is not an absolute path"),
        (("--workdir", "/etc/agent"), "cannot be used"),
        (("--workdir", "/proc/agent"), "cannot be used"),
        (("--workdir", "/nowhere/agent"), "cannot be made"),
        (("--secret-file", "/nowhere"), "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(node: Node, options: tuple[str, ...], words: str) -> None:
    agent = node.start("true", *options)
    assert agent.wait() == 1
    assert words in agent.log()
    assert len(agent.log().splitlines()) == 2


def test_directory_that_nobody_names_is_asked_for(engine: Engine) -> None:
    result = engine.run("jenkins", "agent", "--image", "toolbox", "--", "true")
    assert (result.code, result.out) == (1, "")
    assert "--workdir DIR" in result.err


def test_first_one_that_does_not_answer_is_killed(node: Node) -> None:
    first = node.start(_ECHO)
    first.handshake()
    first.process.send_signal(signal.SIGSTOP)
    second = node.start(_ECHO)
    assert second.handshake() == b""
    assert first.wait() == -signal.SIGKILL
    second.stdin.close()
    assert second.wait() == 0


def test_orphans_are_reaped(node: Node) -> None:
    program = "import glob, time; time.sleep(1); print([p for p in glob.glob('/proc/[0-9]*/stat') if ') Z ' in open(p).read()])"
    agent = node.start(f"for n in 1 2 3 4 5; do (sleep 0.3 & true); done; exec python3 -c {shlex.quote(program)}")  # reaps nobody, as java
    assert _text(agent) == "[]\n"
    assert agent.wait() == 0


def test_nothing_of_the_controllers_environment_but_what_it_says_of_the_node(node: Node) -> None:
    agent = node.launch(
        "env", env={"JENKINS_HOME": "/var/lib/jenkins", "CLOUD_KEY": "x"}, options=("-e", "MINE=1"), url="http://127.0.0.1:1/"
    )
    names = {line.partition("=")[0] for line in _text(agent).splitlines()}
    assert agent.wait() == 0
    own = {"HUDSON_COOKIE", "NODE_NAME", "WORKSPACE", "JENKINS_URL", "HUDSON_URL", "AGENTJAR_URL", "SLAVEJAR_URL", "MINE"}
    assert names == own | {"PATH", "HOME", "HOSTNAME", "LANG"}


def test_start_that_is_still_being_made_is_taken_over_as_well(node: Node) -> None:
    first = node.start(_ECHO)
    assert wait_until(node.engine.jobs)
    second = node.start(_ECHO)
    assert second.handshake() == b""
    assert first.wait() != 0
    second.stdin.close()
    assert second.wait() == 0


def test_of_starts_at_the_same_moment_one_remains(node: Node) -> None:
    agents = [node.start(_ECHO) for _ in range(3)]

    def running() -> list[Controller]:
        return [agent for agent in agents if agent.process.poll() is None]

    assert wait_until(lambda: len(running()) == 1, 60)
    (left,) = running()
    assert left.handshake() == b""
    left.stdin.close()
    assert [agent.wait() == 0 for agent in agents].count(True) == 1


def test_java_finds_its_home_and_writes_utf_8_and_its_channel_is_exact(node: Node) -> None:
    node.root.mkdir()
    (node.root / "Agent.java").write_text(_JAVA)
    agent = node.launch("java", "-Xmx64m", "Agent.java")
    assert agent.handshake() == b""
    sent: list[str] = []
    received = agent.exchange(lambda stream: sent.append(_send(stream, 32 * _CHUNK)), _receive)
    assert received == (sent[0], 32 * _CHUNK)
    assert agent.wait() == 0
    assert agent.log() == "UTF-8 /root ü console=false\n"


def test_java_ends_on_sigterm(node: Node) -> None:
    node.root.mkdir()
    (node.root / "Agent.java").write_text(_JAVA)
    agent = node.launch("java", "-Xmx64m", "Agent.java")
    agent.handshake()
    agent.kill()
    assert agent.wait() == 143
