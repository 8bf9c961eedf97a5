"""`dockless step` as the `shell:` of a workflow's steps."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner import launcher
from tests.support import images, imports
from tests.support.engine import TREE, Engine, processes_of, wait_until
from tests.support.github_steps import Runner, Step

SHELL = "dockless step --image toolbox -- bash -e {0}"
_LIMIT_S = 30


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> Runner:
    return Runner(engine, tmp_path)


def layout(tmp_path: Path, config: dict[str, object]) -> str:
    """Make an image of busybox and return its name."""
    images.write_oci_layout(
        tmp_path / "image", images.build_image([images.busybox_layer()], {"Env": [f"PATH={images.PATH}"], **config}), "v1"
    )
    return f"oci:{tmp_path / 'image'}:v1"


def passed(step: Step) -> str:
    assert step.code == 0, step.log
    return step.log


def test_second_step_finds_the_files_of_the_first_and_none_of_its_processes(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("echo from-root > /opt/file; echo from-workspace > file; sleep 4711 & echo $! > pid", shell=SHELL))
        log = passed(job.step("cat /opt/file file; ! pgrep -x sleep || echo alive; ls /proc | grep -c '^[0-9]'", shell=SHELL))
        assert log.split()[:2] == ["from-root", "from-workspace"]
        assert "alive" not in log
        assert len(runner.engine.jobs()) == 1 or runner.engine.jobs()[1].endswith(".lock")
        info = (job.workspace / "file").stat()
        assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())


def test_files_of_commands_work_from_inside(runner: Runner) -> None:
    script = """
        echo COLOUR=green >> "$GITHUB_ENV"
        echo answer=42 >> "$GITHUB_OUTPUT"
        echo '# Done' >> "$GITHUB_STEP_SUMMARY"
        mkdir -p tools && printf '#!/bin/sh\\necho tool of the job\\n' > tools/tool && chmod +x tools/tool
        echo "$PWD/tools" >> "$GITHUB_PATH"
        grep -q opened "$GITHUB_EVENT_PATH"
    """
    with runner.job() as job:
        first = job.step(script, shell=SHELL)
        passed(first)
        assert first.command("GITHUB_OUTPUT") == "answer=42\n"
        assert first.command("GITHUB_STEP_SUMMARY") == "# Done\n"
        second = passed(job.step('tool; echo "$COLOUR"; echo "$PATH"', shell=SHELL)).splitlines()
        assert second[:2] == ["tool of the job", "green"]
        assert second[2].split(":")[0] == str(job.workspace / "tools")
        assert all(path.stat().st_uid == os.getuid() for path in first.files.values())


def test_environment_is_the_jobs_and_the_steps_and_nothing_of_the_host(runner: Runner) -> None:
    with runner.job() as job:
        job.path = ["/of/a/step"]
        env = {"OF_STEP": "a b\nc", "HOST_AND_STEP": "step", "DOCKLESS_STEP_IMAGE": "toolbox"}
        log = passed(job.step("env -0 | tr '\\n\\0' '|\\n'", shell="dockless step -- bash -e {0}", env=env))
        found = dict(line.split("=", 1) for line in log.splitlines())
        assert found["OF_STEP"] == "a b|c"
        assert found["HOST_AND_STEP"] == "step"
        assert (found["CI"], found["GITHUB_RUN_ID"], found["RUNNER_OS"]) == ("true", "1", "Linux")
        assert found["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] == "id-token"
        assert "SECRET_OF_THE_HOST" not in found and "DOCKLESS_STEP_IMAGE" not in found and "PYTHONPATH" not in found
        assert found["HOME"] == str(job.temporary / "_dockless_home")
        assert found["PATH"].startswith("/of/a/step:/")
        assert "host" not in log


@pytest.mark.parametrize("code", [0, 1, 42])
def test_exit_code_is_the_scripts_own(runner: Runner, code: int) -> None:
    with runner.job() as job:
        assert job.step(f"exit {code}", shell=SHELL).code == code


def test_script_without_a_shell_gets_that_of_the_image(runner: Runner, tmp_path: Path) -> None:
    image = layout(tmp_path, {})
    with runner.job() as job:
        assert job.step("echo $0; false; echo not reached", shell=f"dockless step --image {image} -- {{0}}").code == 1
        log = passed(job.step("echo ${BASH_VERSION%%.*}", shell="dockless step --image toolbox {0}"))
        assert int(log) >= 4


@pytest.mark.parametrize(("user", "uid"), [("", 0), ("1000", 1000), ("builder", 1000)])
def test_files_belong_to_the_runner_whatever_user_the_image_has(runner: Runner, tmp_path: Path, user: str, uid: int) -> None:
    image = layout(tmp_path, {"User": user})
    shell = f"dockless step --image {image} -- sh -e {{0}}"
    script = 'mkdir -p made/deep; echo x > made/deep/file; echo A=1 >> "$GITHUB_ENV"; echo o=1 >> "$GITHUB_OUTPUT"; id -u; touch "$HOME/x"'
    with runner.job() as job:
        step = job.step(script, shell=shell)
        assert int(passed(step).splitlines()[-1]) == uid
        for path in (job.workspace / "made/deep/file", *step.files.values(), job.temporary / "_dockless_home/x"):
            assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
            path.read_text()
            path.unlink()
        assert passed(job.step("id -u; test ! -e made/deep/file", shell=shell)).split() == [str(uid)]


def test_user_of_the_command_line_is_the_runner(runner: Runner, tmp_path: Path) -> None:
    shell = f"dockless step --image {layout(tmp_path, {})} --user builder -- sh -e {{0}}"
    with runner.job() as job:
        assert passed(job.step("touch mine; id -u", shell=shell)).split()[-1] == "1000"
        assert (job.workspace / "mine").stat().st_uid == os.getuid()


def test_cancelled_step_ends_at_once_and_leaves_the_container(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))
        running = job.begin("trap 'echo stopped; exit 3' TERM; sleep 4711 & echo begun; wait", shell=SHELL)
        assert wait_until(lambda: "begun" in running.log, _LIMIT_S)
        os.kill(running.pid, signal.SIGINT)
        step = running.end()
        assert step.code != 0
        assert "stopped" in step.log
        assert passed(job.step("pgrep -x sleep || echo none", shell=SHELL)) == "none\n"


def test_step_that_ignores_the_signal_is_killed_in_time(runner: Runner) -> None:
    with runner.job() as job:
        running = job.begin("trap '' TERM INT; echo begun; while :; do sleep 1; done", shell=SHELL)
        assert wait_until(lambda: "begun" in running.log, _LIMIT_S)
        os.kill(running.pid, signal.SIGINT)
        assert running.end().code != 0
        passed(job.step("true", shell=SHELL))


def test_step_killed_outright_leaves_no_process(runner: Runner) -> None:
    with runner.job() as job:
        running = job.begin("echo begun; sleep 4711", shell=SHELL)
        assert wait_until(lambda: "begun" in running.log, _LIMIT_S)
        os.kill(running.pid, signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        assert passed(job.step("pgrep -x sleep || echo none", shell=SHELL)) == "none\n"


def test_other_options_have_a_container_of_their_own(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("touch /opt/here", shell=SHELL))
        other = "dockless step --image toolbox --hostname other -- bash -e {0}"
        assert passed(job.step("hostname; ls /opt | grep here || echo new", shell=other)).split() == ["other", "new"]
        # what concerns one process only does not
        passed(
            job.step(
                "test -e /opt/here; test $A = 1; test $PWD = /tmp", shell="dockless step --image toolbox -e A=1 -w /tmp -- bash -e {0}"
            )
        )


def _two(runner: Runner, tmp_path: Path) -> tuple[Runner, Runner]:
    return runner, Runner(runner.engine, tmp_path / "second")


def test_jobs_side_by_side_do_not_meet(runner: Runner, tmp_path: Path) -> None:
    one, two = _two(runner, tmp_path)
    # a matrix: all names are the same
    with one.job() as first, two.job() as second:
        passed(first.step("touch /opt/first; echo x > file", shell=SHELL))
        log = passed(second.step(f"test ! -e /opt/first; test ! -e file; ls -d {first.workspace} || echo unseen; hostname -I", shell=SHELL))
        assert "unseen" in log
        passed(first.step("test -e /opt/first", shell=SHELL))
        assert len([name for name in runner.engine.jobs() if not name.endswith(".lock")]) == 2


def test_end_leaves_nothing_and_gives_back_what_other_users_wrote(runner: Runner, tmp_path: Path) -> None:
    shell = f"dockless step --image {layout(tmp_path, {})} -- sh -e {{0}}"
    with runner.job() as job:
        passed(job.step("mkdir theirs; echo x > theirs/file; chown -R 1000:1000 theirs; chmod 700 theirs", shell=shell))
        assert (job.workspace / "theirs").stat().st_uid != os.getuid()
        assert passed(job.step("exit 1", shell="dockless step --end {0}")) == ""
        assert runner.engine.leftovers() == []
        (job.workspace / "theirs/file").unlink()
        (job.workspace / "theirs").rmdir()
        # a job may go on after it
        passed(job.step("true", shell=shell))


def test_job_whose_worker_is_gone_is_collected(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))
        runner.engine.run("gc")
        assert runner.engine.jobs() != []  # it is still wanted
        job.end()
        runner.engine.run("gc")
        assert runner.engine.leftovers() == []


def test_first_step_of_the_next_job_collects_as_well(runner: Runner, tmp_path: Path) -> None:
    with runner.job() as old:
        passed(old.step("true", shell=SHELL))
        keys = set(runner.engine.jobs())
        old.end()
        with runner.job("2") as job:
            passed(job.step("true", shell=SHELL))
            assert keys.isdisjoint(runner.engine.jobs())


def test_runners_own_sweep_ends_the_container(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))
        assert processes_of(runner.engine.state) != []
        assert len(job.sweep()) >= 1
        assert wait_until(lambda: processes_of(runner.engine.state) == [], _LIMIT_S)


def test_container_that_is_lost_in_the_middle_is_made_again_with_a_warning(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("touch /opt/here file", shell=SHELL))
        job.sweep()
        assert wait_until(lambda: processes_of(runner.engine.state) == [], _LIMIT_S)
        log = passed(job.step("test ! -e /opt/here; test -e file", shell=SHELL))
        assert "WARNING: the container of the earlier steps has gone" in log


def test_second_step_starts_crun_once(runner: Runner, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))
        passed(job.step("true", shell=SHELL, prefix=("strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", str(trace))))
    started = [line for line in trace.read_text().splitlines() if "execve" in line and '["crun"' in line]
    assert len(started) == 1, started


def test_nobody_holds_the_output_of_a_step_that_has_ended(runner: Runner, tmp_path: Path) -> None:
    idle = images.build_image([images.busybox_layer()], {"Cmd": ["/bin/sleep", "4711"]})
    images.write_oci_layout(tmp_path / "idle", idle, "v1")
    with runner.job() as job:
        words = ("step", "--image", "toolbox", "--service", f"oci:{tmp_path / 'idle'}:v1=idle", "--", "sh", "-c", "sleep 4711 & echo out")
        # an engine of pipes: it reads them to their end, as the runner does for five seconds
        for _ in range(2):
            step = subprocess.run(
                runner.engine.argv(*words), env=job.step_environ({}, {}), cwd=job.workspace, capture_output=True, text=True, timeout=50,
                check=True,
            )  # fmt: skip
            assert step.stdout == "out\n"
        passed(job.step("exit 1", shell="dockless step --end {0}"))
        assert runner.engine.run("step", "--end", env=job.step_environ({}, {})).code == 0  # here the tests are the worker
        assert runner.engine.leftovers() == []


class Measured(Runner):
    """A runner whose shell reports what it imports, into the step's log."""

    def program(self, command: str) -> list[str]:
        own = imports.argv("--config", str(self.engine.config), "--state-dir", str(self.engine.state))
        return own if command == "dockless" else [command]


def test_steps_load_nothing_slow(engine: Engine, tmp_path: Path) -> None:
    engine.config.write_text("images: {allowed: []}\n")
    runner = Measured(engine, tmp_path)
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))  # what reads the configuration the first time may be slow
        first = passed(job.step("echo ran", shell="dockless step --hostname other -- bash -e {0}"))
        second = passed(job.step("echo ran", shell="dockless step --hostname other -- bash -e {0}"))
        failing = job.step("exit 3", shell="dockless step --hostname other -- bash -e {0}")
    assert imports.slow(imports.loaded(first)) == set()
    assert "runner.adapters.step.making" in imports.loaded(first)
    for log in (second, failing.log):
        modules = imports.loaded(log)
        assert {"runner.adapters.step.run", "runner.job.step"} <= modules
        assert imports.slow(modules, stage=True) == set()
    assert imports.without(second) == "ran"


def test_service_is_reached_by_its_alias_from_every_step(runner: Runner, tmp_path: Path) -> None:
    server = images.build_image(
        [images.busybox_layer(), [images.file("www/index.html", b"served\n")]],
        {"Env": [f"PATH={images.PATH}"], "Cmd": ["sh", "-c", "echo $TOKEN; exec httpd -f -p 80 -h /www"], "ExposedPorts": {"80/tcp": {}}},
    )
    images.write_oci_layout(tmp_path / "server", server, "v1")
    shell = (
        f"dockless step --image {layout(tmp_path, {})} --service oci:{tmp_path / 'server'}:v1=web --service-env TOKEN --network default "
        "-- sh -e {0}"
    )
    with runner.job(environ={"TOKEN": "of the service"}) as job:
        for _ in range(2):
            assert passed(job.step("wget -q -O - http://web/", shell=shell)).splitlines()[-1] == "served"
        # a hook of the runner calls it by a shell between the worker and us
        env = {"DOCKLESS": " ".join(runner.engine.argv("step", "--end"))}
        log = passed(job.step("$DOCKLESS", shell="bash -e {0}", env=env))
        assert "::group::Log of service web" in log and "of the service" in log


def test_service_with_a_health_check_is_waited_for_and_told_when_it_fails(runner: Runner, tmp_path: Path) -> None:
    def service(name: str, check: str) -> str:
        image = images.build_image(
            [images.busybox_layer()],
            {
                "Env": [f"PATH={images.PATH}"],
                "Cmd": ["sh", "-c", "echo starting; sleep 1; touch /ready; sleep 4711"],
                "Healthcheck": {"Test": ["CMD-SHELL", check], "Interval": 200_000_000, "Retries": 50 if name == "good" else 1},
            },
        )
        images.write_oci_layout(tmp_path / name, image, "v1")
        return f"oci:{tmp_path / name}:v1={name}"

    good, bad = service("good", "echo asked; test -e /ready"), service("bad", "echo never; false")
    with runner.job() as job:
        log = passed(job.step("echo ran", shell=f"dockless step --image toolbox --service {good} -- bash -e {{0}}"))
        assert "Waiting for good to be ready ..." in log and log.endswith("ran\n")
        step = job.step("echo ran", shell=f"dockless step --image toolbox --service {bad} -- bash -e {{0}}")
        assert step.code == 125
        assert "its health check failed" in step.log and "starting" in step.log and "ran" not in step.log.split()
        assert len([key for key in runner.engine.jobs() if not key.endswith(".lock")]) == 1


def test_first_step_cancelled_while_it_waits_for_its_service_leaves_nothing(runner: Runner, tmp_path: Path) -> None:
    mute = images.build_image([images.busybox_layer()], {"Cmd": ["/bin/sleep", "4711"], "ExposedPorts": {"80/tcp": {}}})
    images.write_oci_layout(tmp_path / "mute", mute, "v1")
    with runner.job() as job:
        running = job.begin("echo never", shell=f"dockless step --image toolbox --service oci:{tmp_path / 'mute'}:v1=web -- bash -e {{0}}")
        assert wait_until(lambda: b"sleep\0004711" in b"".join(map(_command, processes_of(runner.engine.state))), _LIMIT_S)
        os.kill(running.pid, signal.SIGINT)
        step = running.end()
        assert (step.code, "never" in step.log) == (130, False)
        assert wait_until(lambda: runner.engine.leftovers() == [], _LIMIT_S)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_docker_clients_of_a_step_find_an_api(runner: Runner) -> None:
    shell = "dockless step --image toolbox --docker -- bash -e {0}"
    with runner.job() as job:
        log = passed(
            job.step(
                'test -S /var/run/docker.sock; echo "$DOCKER_HOST"; curl -s --unix-socket /var/run/docker.sock http://d/_ping', shell=shell
            )
        )
        assert log.split() == ["tcp://docker:2375", "OK"]


def test_tool_cache_and_actions_are_seen_and_cannot_be_changed(runner: Runner) -> None:
    with runner.job() as job:
        (runner.work / "_tool/node").write_text("tool")
        (runner.work / "_actions/owner/action/v1/action.yml").write_text("runs")
        script = 'cat "$RUNNER_TOOL_CACHE/node" "$RUNNER_WORKSPACE/../_actions/owner/action/v1/action.yml"; ! touch "$RUNNER_TOOL_CACHE/x"'
        assert "toolruns" in passed(job.step(script, shell=SHELL))
        passed(job.step('touch "$RUNNER_TOOL_CACHE/x"', shell="dockless step --image toolbox --tools rw -- bash -e {0}"))


def test_state_and_the_rest_of_the_work_directory_are_out_of_sight(runner: Runner) -> None:
    (runner.work / "other").mkdir()
    with runner.job() as job:
        log = passed(job.step(f"ls -a {runner.work}; ls -d {runner.engine.state} || echo unseen", shell=SHELL))
        assert "other" not in log.split() and "unseen" in log


def test_working_directory_is_that_of_the_step(runner: Runner, tmp_path: Path) -> None:
    with runner.job() as job:
        (job.workspace / "sub").mkdir()
        assert passed(job.step("pwd", shell=SHELL, cwd=job.workspace / "sub")) == f"{job.workspace}/sub\n"
        step = job.step("pwd", shell=SHELL, cwd=tmp_path)
        assert step.code == 125
        assert f"ERROR: step: the working directory {tmp_path} is not in sight of the container" in step.log


def test_work_directory_behind_a_link_is_seen_by_both_names(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    runner = Runner(engine, tmp_path / "link")
    with runner.job() as job:
        log = passed(job.step('pwd; echo x > "$GITHUB_WORKSPACE/file"; cat file', shell=SHELL))
        assert log.split() == [str(tmp_path / "disk/machine-1/_work/repo/repo"), "x"]
        passed(job.step("cat file", shell=SHELL))


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("dockless step --image toolbox -- no-such-program {0}", 127, "no-such-program: program not found in the container"),
        ("dockless step --imgae toolbox -- bash {0}", 125, "step: there is no option --imgae"),
        ("dockless step --image toolbox -w /no/such -- bash {0}", 127, "working directory /no/such is not in the container"),
        ("dockless step --image Upper -- bash {0}", 125, "bad image name 'Upper'"),
        ("dockless step -v /etc:/e -- bash {0}", 125, "volume '/etc:/e' cannot be used"),
        ("dockless step --service a/redis --service b/redis -- bash {0}", 125, "step: two services are called redis"),
        ("dockless step --service oci:/no/such=web -- bash {0}", 125, ""),
        ("dockless step --network none --service-env = -- bash {0}", 125, "step: '=' is no environment variable"),
    ],
)
def test_mistake_is_told_in_one_sentence_and_leaves_nothing(runner: Runner, shell: str, code: int, words: str) -> None:
    with runner.job() as job:
        step = job.step("true", shell=shell)
        assert step.code == code
        message, hint = [line for line in step.log.splitlines() if not line.startswith("Using")][-2:]
        assert message.startswith(f"ERROR: {words}") and hint.startswith("(")
        if code == 125:
            assert runner.engine.leftovers() == []


def test_action_runs_its_script_in_the_container_that_its_inputs_name(runner: Runner, tmp_path: Path) -> None:
    launcher.write(str(tmp_path / "dockless"), sys.executable)
    action = TREE / "ci-templates/github/step"
    environ = {"DOCKLESS_STATE": str(runner.engine.state), "DOCKLESS_CONFIG": str(runner.engine.config), "DOCKLESS_PREFIX": str(tmp_path)}
    inputs = {
        "DOCKLESS_STEP_IMAGE": layout(tmp_path, {}), "DOCKLESS_STEP_OPTIONS": "--hostname 'box' -e 'WORDS=a  b'",
        "DOCKLESS_ACTION_SERVICES": "", "DOCKLESS_ACTION_SHELL": "", "DOCKLESS_ACTION_DOCKER": "false", "GITHUB_ACTION_PATH": str(action),
    }  # fmt: skip
    with runner.job(environ=environ) as job:
        installed = job.step(f'sh "{action}/install.sh"', shell="sh -e {0}", env={"GITHUB_ACTION_PATH": str(action)})
        assert passed(installed) == f"dockless is there: {tmp_path}/dockless\n"
        script = 'hostname; echo "$WORDS"; touch /made made; echo A=1 >> "$GITHUB_ENV"; exit 3'
        first = job.step(script, shell=f"sh {action}/step.sh {{0}}", env=inputs)
        assert (first.code, first.log.splitlines()[-2:]) == (3, ["box", "a  b"])
        shell = {"DOCKLESS_ACTION_SHELL": "busybox sh -eu {0}"}
        assert passed(job.step("test -e /made; echo $A", shell=f"sh {action}/step.sh {{0}}", env={**inputs, **shell})) == "1\n"
        # between the worker and us are the hook's own shells
        passed(job.step(f'sh "{action}/end.sh"', shell="bash -e {0}"))
        assert runner.engine.leftovers() == []


def test_outside_of_a_job_it_says_so(engine: Engine) -> None:
    result = engine.run("step", "--image", "toolbox", "--", "true", env={"GITHUB_RUN_ID": ""})
    assert result.code == 125
    assert "this is no step of a GitHub Actions job" in result.err and "dockless run" in result.err
    assert engine.jobs() == []


def test_jobs_are_listed_with_their_repository(runner: Runner) -> None:
    with runner.job() as job:
        passed(job.step("true", shell=SHELL))
        (row,) = json.loads(runner.engine.run("ps", "--json").out)
    assert row["build_user"].endswith("-repository-4711") and row["job"].startswith("step-")
