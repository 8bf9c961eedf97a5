"""Secrets of jobs and registries, looked for in everything that we start, write down and say while they are in use and afterwards."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import log
from tests.support.defences import attack, without
from tests.support.engine import Engine, processes_of
from tests.support.gitlab_jobs import GitLab, job, start_until, text_of
from tests.support.images import build_image, busybox_layer
from tests.support.private_registry import PrivateRegistry
from tests.support.registries import Answer, Request

_TOKEN, _MASKED, _FILE, _PASSWORD = (f"canary-{kind}-7f3a9b" for kind in ("token", "masked", "file", "password"))
_PAIR = base64.b64encode(f"me:{_PASSWORD}".encode()).decode()
_CANARIES = ("canary-", _PAIR)
_DEBUG = {"DOCKLESS_DEBUG": "1"}


@pytest.fixture
def registry() -> Iterator[PrivateRegistry]:
    with PrivateRegistry(build_image([busybox_layer()], {"Cmd": ["sleep", "60"]})).running() as running:
        running.passwords = {_PASSWORD}
        yield running


def _payload(registry: PrivateRegistry) -> dict[str, object]:
    config = json.dumps({"auths": {registry.host: {"auth": _PAIR}}})
    variables = [
        {"key": "CI_JOB_TOKEN", "value": _TOKEN, "public": False, "masked": True},
        {"key": "PASSWORD", "value": _MASKED, "public": False, "masked": True},
        {"key": "KEY", "value": f"-----BEGIN {_FILE}", "public": False, "file": True},
        {"key": "DOCKER_AUTH_CONFIG", "value": config, "public": False},
        {"key": "CI_DEBUG_SERVICES", "value": "true"},
    ]
    credentials = [{"type": "registry", "url": "registry.example", "username": "u", "password": "canary-payload-7f3a9b"}]
    service = {"name": registry.name, "alias": "db"}
    return job("true", variables=variables, credentials=credentials, services=[service])


def _holds(data: bytes) -> bool:
    return any(canary.encode() in data for canary in _CANARIES)


def _written(state: Path) -> list[str]:
    """Return the files of a store, of jobs too, that hold a secret; what belongs to a build user is the job's own."""
    found = []
    for directory, _, names in os.walk(state):
        for name in names:
            path = Path(directory, name)
            try:
                if path.is_file() and not path.is_symlink() and _holds(path.read_bytes()):
                    found.append(str(path))
            except PermissionError:
                continue
    return found


def _started(engine: Engine) -> tuple[list[str], list[str], set[str]]:
    """Return whose command line holds a secret, which of our helpers' environment does, and which helpers were looked at."""
    told, kept, seen = [], [], set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            if _holds(command):
                told.append(command.decode(errors="replace"))
        except OSError:
            continue
    for pid in processes_of(engine.state):
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                continue  # a build user: the job itself
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            name = os.path.basename(command.split(b"\0")[0].decode(errors="replace")).partition(":")[0]
            seen.add(name)
            # the verb that gitlab-runner called has its variables, and so has what it forked
            if b"runner" not in command and _holds(Path(f"/proc/{pid}/environ").read_bytes()):
                kept.append(command.decode(errors="replace"))
        except OSError:
            continue
    return told, kept, seen


@attack(
    39,
    without("runner/kernel/process.py", '{"PATH": TRUSTED_PATH,', '{**os.environ, "PATH": TRUSTED_PATH,'),
    without("runner/adapters/gitlab/prepare.py", '"masked": masked,', '"masked": [*masked, *log.hidden()],'),
)
def test_secret_of_a_job_is_in_no_command_environment_or_file_of_ours(gitlab: GitLab, registry: PrivateRegistry) -> None:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1}, images={"allowed_pull_policies": ["always"]})
    with gitlab.prepared(_payload(registry), env={**gitlab.environment(), **_DEBUG}) as attempt:
        assert registry.asked(), "the registry was not asked with the password"
        call = start_until(attempt, "begun", 'test -n "$PASSWORD" && echo begun; sleep 30 & wait')
        told, kept, seen = _started(gitlab.engine)
        written = _written(gitlab.engine.state)
        call.signal_group(signal.SIGTERM)
        assert call.ended(20)
        text = text_of(attempt)
    assert (told, kept, written) == ([], [], [])
    assert {"dockless", "cat", "crun"} <= seen  # slirp4netns shows nobody what it has
    assert " ms] " in text  # it was told everything
    assert not _holds(text.encode())
    assert _written(gitlab.engine.state) == []
    assert _written(gitlab.engine.home) == []


@attack(39, without("runner/log.py", "message = masked(_visible(message))", "message = _visible(message)"))
def test_password_that_a_registry_repeats_is_masked(engine: Engine, registry: PrivateRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    log.hide(_PASSWORD)
    try:
        log.configure(debug=True)
        for say in (log.say, log.step, log.warn, log.fail, log.debug):
            say(f"registry answers: {_PASSWORD} is wrong")
        said = capsys.readouterr().err
    finally:
        log._voice.secrets = ()
        log.configure(debug=False)
    assert said.count("[MASKED]") == 5
    assert _PASSWORD not in said


@attack(39, without("runner/image/auth.py", "return _hidden(found)", "return found"))
def test_password_of_a_pull_is_masked_when_the_registry_repeats_it(engine: Engine, registry: PrivateRegistry) -> None:
    """Its error is in the message that the pull ends with."""

    def repeat(request: Request, _truth: Answer) -> Answer:
        if not request.basic():
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        body = {"errors": [{"code": "DENIED", "message": f"{_PASSWORD} of {request.headers.get('Authorization', '')} is wrong"}]}
        return Answer(403, json.dumps(body).encode(), {"Content-Type": "application/json"})

    registry.server.lie = repeat
    environ = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {registry.host: {"auth": _PAIR}}}), **_DEBUG}
    result = engine.run("pull", registry.name, env=environ)
    assert result.code != 0
    assert registry.asked()
    assert "[MASKED]" in result.err
    assert not _holds((result.out + result.err).encode())
    assert _written(engine.state) == []


def test_record_of_a_container_of_the_docker_command_has_no_environment(engine: Engine) -> None:
    run = ["jenkins", "docker", "--", "run", "-d", "-t", "--network", "none", "-e", "PASSWORD", "toolbox", "cat"]
    container = engine.run(*run, env={"PASSWORD": _MASKED}).out.strip()
    try:
        execute = ["jenkins", "docker", "--", "exec", "-e", "TOKEN", container, "sh", "-c", "echo $PASSWORD $TOKEN"]
        assert engine.run(*execute, env={"TOKEN": _TOKEN}).out.split() == [_MASKED, _TOKEN]
        told, kept, _ = _started(engine)
        assert (told, kept, _written(engine.state)) == ([], [], [])
    finally:
        engine.run("jenkins", "docker", "--", "rm", "-f", container)
