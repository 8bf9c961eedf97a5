"""What a job might try against the runner that it shares _work with (contract 2.7), and the launchers that stand in its way."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.defences import attack, without
from tests.support.engine import Engine, wait_until
from tests.support.github_replay import Runner
from tests.support.github_runners import install, straight


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> Runner:
    return straight(engine, tmp_path / "actions-runner")


def test_forged_state_leads_to_no_other_job(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    other = straight(engine, tmp_path / "other-runner", name="runner-2")
    other.prepare()
    other.step("echo secret of the other > /opt/secret")
    runner.prepare()
    forged = json.dumps({"state": other.state})
    called = runner.step(f"for f in /__w/_temp/_runner_hook_responses/*.json; do echo '{forged}' > $f; done; cat /opt/secret")
    assert "secret of the other" not in called.log
    runner.state = other.state  # as if it had been adopted
    assert "secret of the other" not in runner.step("cat /opt/secret || true").log
    assert runner.cleanup().code == 0
    assert other.step("echo still here").log == "still here\n"
    other.cleanup()
    assert engine.leftovers() == []


def test_answer_of_a_step_is_ours_whatever_the_step_wrote_there(runner: Runner) -> None:
    runner.prepare()
    forged = json.dumps({"state": {"job": "forged"}})
    called = runner.step(f"for f in /__w/_temp/_runner_hook_responses/*.json; do echo '{forged}' > $f; done")
    assert called.response == {"state": {"job": (runner.state or {})["job"]}}
    assert "forged" not in str(runner.state)
    runner.cleanup()


@pytest.mark.parametrize(
    "trap",
    [
        "rm $f; ln -s {victim} $f",
        "d=/__w/_temp/_runner_hook_responses; mv $d $d.old; ln -s {directory} $d",
        "rm $f; mkfifo $f",
    ],
    ids=["link", "directory", "fifo"],
)
def test_answer_is_not_written_where_a_job_wants_it(runner: Runner, tmp_path: Path, trap: str) -> None:
    (tmp_path / "home").mkdir()
    runner.prepare()
    response = runner.temp / "_runner_hook_responses"
    attack = trap.format(victim=tmp_path / "home" / "file", directory=tmp_path / "home")
    call = runner.start("run_script_step", runner.script(f"f=$(ls /__w/_temp/_runner_hook_responses/*.json); {attack}"))
    assert call.process.stdout
    with call.process.stdout as stdout:
        stdout.read()
    call.process.wait(30)
    assert os.listdir(tmp_path / "home") == []
    assert response.is_dir() or response.is_symlink()
    if response.is_symlink():
        response.unlink()
        response.mkdir()
    assert runner.cleanup().code == 0


@pytest.mark.parametrize("place", ["_github_home", "_runner_file_commands"])
def test_directory_that_a_step_made_a_link_is_not_shown_to_an_action(runner: Runner, tmp_path: Path, place: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("private\n")
    runner.prepare()
    runner.step(f"mv /__w/_temp/{place} /__w/_temp/{place}.old; ln -s {tmp_path}/home /__w/_temp/{place}")
    target = {"_github_home": "/github/home", "_runner_file_commands": "/github/file_commands"}[place]
    (runner.temp / "_runner_file_commands").mkdir(exist_ok=True)
    asked = runner.container_step("toolbox", entrypoint="cat", arguments=f"{target}/key")
    called = runner.call("run_container_step", asked)
    assert called.code != 0
    assert "private" not in called.log
    assert "is a link" in called.log
    runner.cleanup()


_SWAP = """
import os, time
home = "/__w/_temp/_github_home"
os.symlink("{TARGET}", home + ".link")
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists("/tmp/stop"):
    os.rename(home, home + ".dir")
    os.rename(home + ".link", home)
    os.rename(home, home + ".link")
    os.rename(home + ".dir", home)
"""


def test_directory_that_becomes_a_link_in_between_is_not_shown_either(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key").write_text("private\n")
    runner.prepare()
    (runner.workspace / "swap.py").write_text(_SWAP.replace("{TARGET}", str(tmp_path / "home")))
    runner.step("nohup python3 swap.py > /dev/null 2>&1 &")
    said = [runner.action("toolbox", entrypoint="sh", arguments='-c "cat /github/home/key; true"') for _ in range(15)]
    runner.step("touch /tmp/stop")
    assert not any("private" in called.log for called in said)
    assert all(called.code == 0 or "cannot be used" in called.log or "is not there" in called.log for called in said)
    runner.cleanup()


def test_dockerfile_behind_a_link_is_not_built(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "Dockerfile").write_text("FROM scratch\nCOPY key /key\n")
    (runner.workspace / "action").symlink_to(tmp_path / "home")
    called = runner.action(dockerfile=runner.workspace / "action" / "Dockerfile")
    assert called.code != 0
    assert "is a link" in called.log


def test_service_log_holds_no_commands_for_the_runner(runner: Runner) -> None:
    talk = '-c "echo ::endgroup::; echo ::set-env name=PATH::/evil; exec sleep 60"'
    service = {"image": "toolbox", "entryPoint": "sh", "entryPointArgs": talk.split(" ")}
    runner.prepare(services=[service])
    runner.step("sleep 0.5")
    lines = runner.cleanup().log.splitlines()
    stop = next(index for index, line in enumerate(lines) if line.startswith("::stop-commands::"))
    token = lines[stop].removeprefix("::stop-commands::")
    assert lines.index(f"::{token}::") > lines.index("\\::set-env name=PATH::/evil") > stop
    assert len(token) == 32


def test_state_and_secrets_are_outside_of_work_and_on_no_command_line(runner: Runner, engine: Engine) -> None:
    runner.prepare()
    call = runner.start(
        "run_script_step", runner.script("touch started; until test -e go; do sleep 0.1; done", env={"TOKEN": "t0p-s3cret"})
    )
    assert wait_until((runner.workspace / "started").exists)
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    (runner.workspace / "go").touch()
    runner.finish(call)
    assert not any(b"t0p-s3cret" in line for line in lines)
    assert not any("t0p-s3cret" in path.read_text(errors="replace") for path in runner.work.rglob("*") if path.is_file())
    runner.cleanup()


_SPY = """
import os, time
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists("/tmp/stop"):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for path in (f"/proc/{pid}/root{ROOT}/run.sh", f"/proc/{pid}/cwd{ROOT}/run.sh"):
            if os.path.exists(path):
                os.mkdir("/tmp/escaped")
"""


@attack(38, without("runner/job/stay.py", " and not asked.nested and set(asked.capabilities) <= set(capabilities.DEFAULT)", ""))
@pytest.mark.parametrize("options", ["", "--privileged", "--cap-add SYS_PTRACE"])
def test_process_that_stays_sees_nothing_of_the_host_while_steps_start(runner: Runner, options: str) -> None:
    runner.prepare({"image": "toolbox", "createOptions": options})
    (runner.workspace / "spy.py").write_text(_SPY.replace("{ROOT}", str(runner.root)))
    assert runner.step("nohup python3 spy.py > /tmp/said 2>&1 & sleep 0.3").code == 0
    alive = [runner.step("pgrep -f spy.py > /dev/null && echo alive || true").log for _ in range(12)]
    assert set(alive) == ({""} if options else {"alive\n"})
    assert runner.step("cat /tmp/said; ls -d /tmp/escaped 2> /dev/null || true").log == ""
    runner.step("touch /tmp/stop")
    runner.cleanup()


@attack(36, without("runner/job/furnish.py", "closed = () if container.asked.engine else", "closed = () if container.asked.nested else"))
def test_no_option_of_a_workflow_opens_what_is_closed(runner: Runner) -> None:
    runner.prepare({"image": "toolbox", "createOptions": "--privileged --cap-add SYS_ADMIN"})
    called = runner.step("grep CapEff /proc/self/status; unshare --user true && echo BROKEN; mount -t tmpfs none /mnt && echo BROKEN; true")
    assert called.code == 0
    assert "CapEff:\t000001ffffffffff" in called.log
    assert called.log.count("not permitted") + called.log.count("permission denied") == 2
    assert "BROKEN" not in called.log
    runner.cleanup()


# launchers


def test_job_cannot_put_a_program_in_front_of_ours(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    install(engine, runner, tmp_path / "program")
    runner.prepare()
    names = "bash sh python3 node crun nft ip newuidmap newgidmap env"
    runner.step(f'mkdir x; for n in {names}; do printf "#!/bin/sh\\ntouch {runner.root}/escaped\\n" > x/$n; chmod 755 x/$n; done')
    evil = 'import os; os.mkdir(os.environ["RUNNER_TEMP"] + "/imported")'
    runner.step(f"mkdir runner; echo '{evil}' > runner/__init__.py; cp runner/__init__.py os.py")
    runner.path = [str(runner.workspace / "x")]
    assert runner.step("true").code in (0, 127)
    assert runner.action("toolbox", entrypoint="/bin/sh", arguments='-c "true"').code == 0
    assert runner.cleanup().code == 0
    assert not (runner.root / "escaped").exists()
    assert not (runner.temp / "imported").exists()


@pytest.mark.parametrize("options", [[], ["--shell"]], ids=["js", "sh"])
def test_launcher_passes_exit_codes_signals_and_answers_on(runner: Runner, engine: Engine, tmp_path: Path, options: list[str]) -> None:
    install(engine, runner, tmp_path / "program", *options)
    runner.prepare(services=[])
    (record,) = (engine.state / "jobs").glob("*/state.json")
    assert json.loads(record.read_text())["owner"][0] == os.getpid()  # and no launcher, which has ended by now
    assert runner.step("exit 42").code == 42
    call = runner.start("run_script_step", runner.script("touch started; sleep 60"))
    assert wait_until((runner.workspace / "started").exists)
    call.process.send_signal(signal.SIGINT)
    assert call.process.wait(7.5) > 0
    runner.finish(call)
    assert runner.cleanup().code == 0
    assert engine.leftovers() == []


def test_doctor_is_content_with_what_install_wrote_and_names_what_is_wrong(runner: Runner, engine: Engine, tmp_path: Path) -> None:
    def doctor() -> subprocess.CompletedProcess[str]:
        argv = engine.argv("github", "doctor", "--runner-dir", str(runner.root))
        return subprocess.run(argv, env=engine.environ(), capture_output=True, text=True, timeout=60, check=False)

    before = doctor()
    assert before.returncode == 1
    assert "FAIL  the runner has no container hook" in before.stdout
    (runner.root / ".env").write_text("LANG=C.UTF-8\n")
    program = install(engine, runner, tmp_path / "program")
    assert (runner.root / ".env").read_text().startswith("LANG=C.UTF-8\n")
    after = doctor()
    assert (after.returncode, after.stderr) == (0, "")
    assert "FAIL" not in after.stdout
    not_isolated = engine.run("github", "install", "--runner-dir", str(runner.root))
    assert "is no program that a runner should start" in not_isolated.err
    os.unlink(program)
    assert "FAIL  what the hook starts does not" in doctor().stdout


# what is no attack, but happens


def test_job_of_a_worker_that_died_is_replaced_by_the_next_one(runner: Runner, engine: Engine) -> None:
    runner.prepare(services=[{"image": "toolbox", "entryPoint": "sleep", "entryPointArgs": ["99"]}])
    runner.environ["GITHUB_RUN_ID"] = "4712"
    called = runner.step("true")
    assert called.code != 0
    assert "the job's container is gone" in called.log
    runner.prepare()
    assert len([name for name in engine.jobs() if not name.endswith(".lock")]) == 1
    runner.cleanup()
    assert runner.cleanup().code == 0
    assert engine.leftovers() == []


def test_job_survives_its_workspace_being_deleted(runner: Runner) -> None:
    runner.prepare()
    assert runner.step("cd /; rm -rf /__w/repo/repo/* && echo gone").log == "gone\n"
    runner.cleanup()


def test_what_is_no_message_is_said_in_a_sentence(runner: Runner) -> None:
    for line in (b"", b"{}\n", b"[1]\n", b'{"command":"fly"}\n', b"\xff\n"):
        done = subprocess.run(runner.command, input=line, env=runner.environ, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stdout.startswith(b"::error::")
        assert b"Traceback" not in done.stderr
