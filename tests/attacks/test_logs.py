"""Attacks by what is printed (case 39): endless output, terminal and CI commands in what we relay or say ourselves, split secrets."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from runner import log
from runner.job import follow
from tests.support import images, stores
from tests.support.defences import attack, without
from tests.support.engine import Engine, wait_until
from tests.support.github_steps import Runner
from tests.support.gitlab_jobs import GitLab, job, text_of

_SECRET = "canary-0123456789"
_FOLLOW = "runner/job/follow.py"
_QUOTED = without("runner/log.py", '.replace("##[", "##\\\\[")', "", "runner/log.py", 'if shown.lstrip().startswith("::")', "if False")
_FLOOD = "head -c 200000 /dev/zero | tr '\\0' x"
# clears the screen, names the window, folds the log, and orders GitHub's runner about
_HOSTILE = (
    r"printf '\033[2J\033]0;owned\007\033[31mred\n"
    r"section_start:1:fake\r\033[0Ksection_end:1:build_script\r\033[0K\n"
    r"::set-env name=PATH::/owned\n  ::add-mask::e\nx ##[set-env name=PATH]/owned\nlast\n'"
)
_ORDERS = ("\033[2J", "\033]0;", "\r\033[0K", "\n::set-env", "\n  ::add-mask", "##[set-env")


@pytest.fixture
def silent() -> Iterator[None]:
    """Forget what is masked when the test is over: it is one set for the process."""
    yield
    log._voice.secrets = ()


# how much is kept


@attack(39, without("runner/job/services.py", "log_bytes=current.disk.log", "log_bytes=0"))
def test_log_of_a_service_ends_where_it_has_to_and_the_service_goes_on(gitlab: GitLab) -> None:
    gitlab.configure(limits={"log": "64k"})
    talk = f"echo begun > /dev/stdout; {_FLOOD}; echo more; exec python3 -m http.server 80"
    service = {
        "name": "toolbox", "alias": "db", "command": ["sh", "-c", talk], "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "80"}],
    }  # fmt: skip
    with gitlab.prepared(job(services=[service])) as attempt:
        (path,) = (gitlab.engine.state / "jobs").glob("*/logs/service-0.log")
        assert wait_until(lambda: b"65536 bytes were printed, the rest is dropped: limits.log" in path.read_bytes())
        kept = path.read_bytes()
        assert kept.startswith(b"begun\nxxxx")
        assert len(kept) < 65536 + 200
        assert attempt.stage("build_script", ["curl -fsS http://db/ >/dev/null"]).failure is None, text_of(attempt)
        assert path.read_bytes() == kept


@attack(39, without("runner/job/detached.py", "log_fd, current.disk.log, procs", "log_fd, 0, procs"))
def test_log_of_a_container_of_the_docker_command_ends_where_it_has_to(engine: Engine) -> None:
    engine.config.write_text("limits: {log: 64k}\n")
    container = engine.run(
        "jenkins", "docker", "--", "run", "-d", "--network", "none", "toolbox", "sh", "-c", f"{_FLOOD}; exit 3"
    ).out.strip()
    assert engine.run("jenkins", "docker", "--", "logs", "-f", container).out.startswith("xxxx")
    out = engine.run("jenkins", "docker", "--", "logs", container).out
    assert out.endswith("\n[dockless: 65536 bytes were printed, the rest is dropped: limits.log]\n")
    assert len(out) < 65536 + 200
    engine.run("jenkins", "docker", "--", "rm", "-f", container)


@attack(39, without("runner/job/docker_gate.py", "log_bound.pipe(1, log_bytes)", "1"))
def test_nested_engine_prints_through_the_bound(engine: Engine) -> None:
    engine.config.write_text(yaml.safe_dump({"limits": {"log": "64k"}, "docker": {"engine": "podman"}}))
    process = engine.start("run", "--docker", "--network", "none", "--", "sh", "-c", "docker version >/dev/null; echo up; read line")
    assert process.stdout and process.stdout.readline() == "up\n"
    try:
        (path,) = (engine.state / "jobs").glob("*/logs/docker.log")
        assert {_name(pid) for pid in _writers(path)} == {"sh", "cat"}
    finally:
        process.communicate("\n", timeout=30)


def _writers(path: Path) -> list[int]:
    """Return the processes that have a file open."""
    identity, found = path.stat(), []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and any(
                os.path.samestat(os.stat(f"/proc/{entry}/fd/{fd}"), identity) for fd in os.listdir(f"/proc/{entry}/fd")
            ):
                found.append(int(entry))
        except OSError:
            continue
    return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_endless_line_of_a_step_passes_through_and_is_kept_nowhere(engine: Engine) -> None:
    """What a job prints goes from its process to the CI system's pipe: nothing of ours reads it, and its bound is the CI system's."""
    process = engine.start("run", "--network", "none", "--", "sh", "-c", "head -c 256m /dev/zero; echo; cat >/dev/null")
    assert process.stdin and process.stdout
    with open(process.stdout.fileno(), "rb", closefd=False) as pipe:
        assert sum(len(pipe.read(1024**2)) for _ in range(256)) == 256 * 1024**2
    stored = [path for path in engine.state.rglob("*") if path.is_file() and path.stat().st_size > 1024**2]
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
    assert process.stderr
    process.stderr.close()
    assert stored == []
    assert peak and int(peak[1]) < 64 * 1024


# what is relayed and said


def _assert_harmless(text: str) -> None:
    assert [order for order in _ORDERS if order in text] == []
    assert r"\x1b[2J\x1b]0;owned\x07" in text
    assert "\033[31mred" in text  # colours are kept
    assert r"section_start:1:fake\r\x1b[0Ksection_end:1:build_script\r\x1b[0K" in text
    assert r"##\[set-env name=PATH]/owned" in text
    assert "last" in text


@attack(39, without(_FOLLOW, "log.quote(log.masked(", "str(log.masked("), _QUOTED)
def test_service_in_the_job_log_can_order_nobody(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    service = {"name": "toolbox", "alias": "db", "command": ["sh", "-c", f"{_HOSTILE}; touch /builds/said; sleep 60"]}
    with gitlab.prepared(job(services=[service], variables={"CI_DEBUG_SERVICES": "true"})) as attempt:
        attempt.stage("build_script", ["until test -e /builds/said; do sleep 0.1; done"])
        shown = [line for line in text_of(attempt).split("\n") if "[service:toolbox-db]" in line]
    _assert_harmless("\n".join(shown).replace("\033[0;90m[service:toolbox-db]\033[0;m ", ""))


@attack(39, without("runner/job/services.py", "log.masked(log.quote(", "str(("), _QUOTED)
def test_log_of_a_service_of_a_github_step_can_order_nobody(engine: Engine, tmp_path: Path) -> None:
    server = images.build_image(
        [images.busybox_layer(), [images.file("bin/say", f"#!/bin/sh\n{_HOSTILE}\nexec httpd -f -p 80\n".encode(), mode=0o755)]],
        {"Env": [f"PATH={images.PATH}"], "Cmd": ["say"], "ExposedPorts": {"80/tcp": {}}},
    )
    images.write_oci_layout(tmp_path / "server", server, "v1")
    with Runner(engine, tmp_path).job() as started:
        begun = started.step("true", shell=f"dockless step --image toolbox --service oci:{tmp_path / 'server'}:v1=web -- bash -e {{0}}")
        assert begun.code == 0, begun.log
        ended = started.step("$DOCKLESS", shell="bash -e {0}", env={"DOCKLESS": " ".join(engine.argv("step", "--end"))})
    _assert_harmless(ended.log)


@attack(
    39,
    without(
        "runner/log.py",
        '{quote(message)}", _RED',
        '{message}", _RED',
        "runner/log.py",
        "message = masked(_visible(message))",
        "message = masked(message)",
    ),
)
def test_words_of_others_in_our_messages_can_order_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    log.fail("registry says: \033[2J\033]0;owned\007\r\n::set-env name=A::b\n##[add-path]/x", "\n::error::no")
    said = capsys.readouterr().err
    assert [order for order in (*_ORDERS, "\033", "\r", "##[", "\n::") if order in said] == []


# secrets


class _Service:
    """A service's log, and the job log that it is relayed to."""

    def __init__(self, root: Path) -> None:
        self.store = stores.make(root / "state")
        self.path = Path(self.store.job_log("k", "x"))
        self.path.parent.mkdir(parents=True)
        self.path.touch()
        self.output = root / "output"
        self.fd = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @contextmanager
    def stage(self) -> Iterator[None]:
        with follow.follow(self.store, "k", ("x",), prefix=lambda name: f"[{name}] ", output=self.fd):
            yield

    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


@attack(39, without(_FOLLOW, "len(chunk) - _begun(chunk, log.hidden())", "len(chunk)"), without(_FOLLOW, "log.masked(data", "str(data"))
@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("before", ["", "word ", "x" * 70_000], ids=["at once", "after a word", "in an endless line"])
def test_secret_that_a_service_writes_in_two_pieces_is_masked(tmp_path: Path, before: str) -> None:
    """Between the pieces a stage ends, and whatever stood there at its end has been shown."""
    log.hide(_SECRET)
    service = _Service(tmp_path)
    with service.stage():
        service.write(before + _SECRET[:9])
    with service.stage():
        service.write(_SECRET[9:] + " after\n")
    shown = service.output.read_text()
    assert "canary" not in shown
    assert "[MASKED] after\n" in shown
    assert re.sub(r"\[x\] |\n", "", shown) == f"{before}[MASKED] after"


@attack(
    39, without("runner/adapters/gitlab/run.py", 'log.hide(*environment.values(job_variables, current.facts.get("masked", ())))', "pass")
)
def test_masked_variable_is_masked_in_what_services_print(gitlab: GitLab) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    variables = [{"key": "CI_DEBUG_SERVICES", "value": "true"}, {"key": "CANARY", "value": _SECRET, "public": True, "masked": True}]
    talk = "printf 'it is %.9s' $CANARY; sleep 1; printf '%s\\n' ${CANARY#?????????}; touch /builds/said; sleep 60"
    service = {"name": "toolbox", "alias": "db", "command": ["sh", "-c", talk]}
    with gitlab.prepared(job(services=[service], variables=variables)) as attempt:
        attempt.stage("build_script", ["until test -e /builds/said; do sleep 0.1; done"])
        shown = "".join(line for line in text_of(attempt).splitlines() if "[service:toolbox-db]" in line)
    assert "it is [MASKED]" in shown
    assert _SECRET[:9] not in shown
