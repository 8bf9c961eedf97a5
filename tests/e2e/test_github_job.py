"""A GitHub job in its container: what the runner's calls come to."""

import os
import shutil
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, wait_until
from tests.support.github_replay import Runner
from tests.support.images import BUSYBOX


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> Runner:
    return Runner(tmp_path / "actions-runner", engine.argv("github", "hook"), engine.environ())


def test_job_runs_its_steps_and_leaves_nothing(runner: Runner, engine: Engine) -> None:
    called = runner.prepare()
    assert called.response is not None
    assert called.response["isAlpine"] is False
    step = runner.step('echo "hello from $GITHUB_WORKSPACE"; pwd; echo one=1 >> "$GITHUB_OUTPUT"; echo $CI $GITHUB_ACTIONS $HOME')
    assert (step.code, step.log) == (0, "hello from /__w/repo/repo\n/__w/repo/repo\ntrue true /github/home\n")
    assert runner.output() == "one=1\n"
    assert runner.step("exit 42").code == 42
    assert runner.cleanup().code == 0
    assert engine.leftovers() == []


def test_files_of_a_step_are_the_runners_own(runner: Runner) -> None:
    runner.prepare()
    runner.step("mkdir -p sub && echo x > sub/file && mkdir /github/home/.cache")
    runner.cleanup()
    assert (runner.workspace / "sub" / "file").stat().st_uid == os.getuid()
    (runner.workspace / "sub" / "file").unlink()
    (runner.workspace / "sub").rmdir()


def test_files_persist_between_steps_and_path_grows(runner: Runner) -> None:
    runner.prepare()
    assert runner.step('echo kept > /opt/word; mkdir /opt/b; echo /opt/b >> "$GITHUB_PATH"').code == 0
    assert runner.path == ["/opt/b"]
    assert runner.step("cat /opt/word; echo $PATH").log.splitlines() == [
        "kept",
        "/opt/b:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    runner.cleanup()


def test_missing_working_directory_fails_the_step(runner: Runner) -> None:
    runner.prepare()
    called = runner.step("true", cwd="/__w/repo/nowhere")
    assert called.code == 127
    assert "::error::working directory /__w/repo/nowhere is not in the container" in called.log
    runner.cleanup()


def test_cancelled_step_ends_in_time(runner: Runner, engine: Engine) -> None:
    runner.prepare()
    call = runner.start("run_script_step", runner.script("trap '' INT TERM; touch started; while true; do sleep 1; done"))
    assert wait_until((runner.workspace / "started").exists)
    call.cancel()
    assert runner.finish(call).code > 0
    assert runner.step("echo post").log == "post\n"
    runner.cleanup()
    assert engine.leftovers() == []


def test_process_that_a_step_leaves_is_there_for_the_next_one_and_ends_with_the_job(runner: Runner, engine: Engine) -> None:
    runner.prepare()
    started = runner.step("nohup python3 -m http.server 8123 > /dev/null 2>&1 & echo $! > /tmp/pid")
    assert started.code == 0
    fetch = "curl -fs -o /dev/null --retry 9 --retry-connrefused http://localhost:8123/"
    assert runner.step(f"{fetch} && kill -0 $(cat /tmp/pid) && echo both").log == "both\n"
    assert runner.step("(true &) ; sleep 0.3; ps -e -o stat= | grep -c Z || true").log == "0\n"
    assert runner.step("test /proc/1/root/etc/hostname -ef /etc/hostname; tr -d '\\0' < /proc/1/environ").log == "HOME=/root"
    runner.cleanup()
    assert engine.leftovers() == []


def test_cancelled_preparation_leaves_nothing(runner: Runner, engine: Engine) -> None:
    check = "--health-cmd false --health-interval 60s"
    service = {"image": "toolbox", "entryPoint": "sleep", "entryPointArgs": ["99"], "createOptions": check}
    job, other = (runner.container(asked, system=[], environment={}) for asked in ({"image": "toolbox"}, service))
    call = runner.start("prepare_job", {"container": job, "services": [other]})
    assert call.process.stdout
    for line in call.process.stdout:
        if "to be healthy" in line:
            break
    call.process.send_signal(signal.SIGINT)
    assert call.process.wait(7.5) == 130
    runner.finish(call)
    assert wait_until(lambda: engine.leftovers() == [])


def test_whole_job(runner: Runner, engine: Engine) -> None:
    """A container, two services, steps, an action with a Dockerfile, a step that is cancelled, and what runs after it."""
    runner.prepare("toolbox", [_web(createOptions="--name web"), _web(createOptions="--name other", portMappings=["80"])])
    dockerfile = runner.work / "_actions" / "o" / "a" / "v1" / "Dockerfile"
    dockerfile.parent.mkdir(parents=True)
    shutil.copy(BUSYBOX, dockerfile.parent / "busybox")
    fetch = "wget -q -O - http://web/made-by-the-job.txt > by-the-action"
    dockerfile.write_text(f'FROM scratch\nCOPY busybox /bin/sh\nENTRYPOINT ["sh", "-c", "{fetch}"]\n')
    assert runner.step('echo "PATH_WAS=$PATH" >> "$GITHUB_ENV"; echo built > product').code == 0
    assert runner.output("env").startswith("PATH_WAS=/usr/local/sbin")
    assert runner.action(dockerfile=dockerfile).code == 1  # the service has no such file: wget's own word
    assert (runner.workspace / "by-the-action").stat().st_uid == os.getuid()
    call = runner.start("run_script_step", runner.script("touch started; sleep 60"))
    assert wait_until((runner.workspace / "started").exists)
    call.cancel()
    assert runner.finish(call).code > 0
    assert runner.step("cat product; echo post").log == "built\npost\n"
    assert runner.action("toolbox", entrypoint="cat", arguments="product").log == "built\n"
    log = runner.cleanup().log
    assert [name for name in ("web", "other") if f"Log of service {name}" in log] == ["web", "other"]
    assert "GET /made-by-the-job.txt" in log
    assert engine.leftovers() == []


# services


def _web(**more: Any) -> dict[str, Any]:
    return {"image": "toolbox", "entryPoint": "python3", "entryPointArgs": ["-m", "http.server", "80"], **more}


def test_services_are_reached_by_name_and_healthy_first(runner: Runner, engine: Engine) -> None:
    check = '--name db --health-cmd "test -e /tmp/ready" --health-interval 1s --health-retries=60'
    slow = ["-c", '"echo', "starting;", "sleep", "1;", "touch", "/tmp/ready;", "exec", "python3", "-m", "http.server", '80"']
    services = [_web(createOptions="--name web"), {"image": "toolbox", "entryPoint": "sh", "entryPointArgs": slow, "createOptions": check}]
    runner.prepare(services=services)
    fetch = "curl -fs -o /dev/null --retry 9 --retry-connrefused"
    assert runner.step(f"{fetch} http://web/ && {fetch} http://db/ && echo both").log == "both\n"
    log = runner.cleanup().log
    assert "::group::Log of service db (toolbox)" in log
    assert "\nstarting\n" in log
    assert engine.leftovers() == []


def test_unhealthy_service_fails_the_job_with_its_log(runner: Runner, engine: Engine) -> None:
    options = '--name db --health-cmd "echo no answer; false" --health-interval 200ms --health-retries 3'
    talk = ["-c", '"echo', "words", "of", "db;", "exec", "sleep", '60"']
    service = {"image": "toolbox", "entryPoint": "sh", "entryPointArgs": talk, "createOptions": options}
    called = runner.prepare(services=[service], check=False)
    assert called.code != 0
    assert "words of db" in called.log
    assert "no answer" in called.log
    assert "Failed to initialize container toolbox (db): its health check failed 3 times" in called.log
    assert engine.leftovers() == []


def test_job_without_a_container_reaches_services_on_the_host(runner: Runner, engine: Engine) -> None:
    check = '--health-cmd "curl -fsS http://localhost/" --health-interval 1s --health-retries 60'
    runner.prepare(None, [_web(portMappings=["80"], createOptions=check)])
    port = runner.context["services"][0]["ports"]["80"]
    assert b"Directory listing" in urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read()
    runner.cleanup()
    assert engine.leftovers() == []


# actions


def test_action_sees_the_workspace_and_the_services(runner: Runner, engine: Engine) -> None:
    runner.prepare(services=[_web(createOptions="--name web")])
    runner.step("echo from the job > file")
    script = "cat file; curl -fs -o /dev/null --retry 9 --retry-connrefused http://web/ && echo reached; touch made;"
    tell = 'echo \\"x=$INPUT_X\\" >> $GITHUB_OUTPUT'
    called = runner.action("toolbox", entrypoint="sh", arguments=f'-c "{script} {tell}"', env={"INPUT_X": "a secret\nin two lines"})
    assert (called.code, called.log) == (0, "from the job\nreached\n")
    assert runner.output() == "x=a secret\nin two lines\n"
    assert (runner.workspace / "made").stat().st_uid == os.getuid()
    assert runner.action("toolbox", entrypoint="sh", arguments='-c "exit 9"').code == 9
    assert runner.step("test -e made && echo same").log == "same\n"
    # the actions have taken theirs along
    assert sorted(path.name for path in (engine.state / "jobs").glob("*/containers/*")) == ["job", "service-0"]
    runner.cleanup()
    assert engine.leftovers() == []


def test_action_without_a_job_leaves_nothing(runner: Runner, engine: Engine) -> None:
    called = runner.action("toolbox", entrypoint="sh", arguments='-c "pwd; touch made"')
    assert (called.code, called.log) == (0, "/github/workspace\n")
    assert (runner.workspace / "made").stat().st_uid == os.getuid()
    assert engine.leftovers() == []
