"""Hostile configuration: what pipelines write where volumes, names and variables are read, through the doors by which it comes in."""

import os
from pathlib import Path

import pytest

from runner import errors
from runner.adapters.jenkins import run_plan
from tests.support import docker_shim
from tests.support.defences import attack, without
from tests.support.engine import Engine
from tests.support.github_replay import Runner
from tests.support.github_runners import straight
from tests.support.gitlab_jobs import GitLab, job

MOUNTS = "runner/sandbox/mounts.py"
GITHUB_VOLUMES = "runner/adapters/github/volumes.py"
SHIM_MOUNTS = "runner/adapters/jenkins/mounts.py"


@pytest.fixture
def runner(engine: Engine, tmp_path: Path) -> Runner:
    return straight(engine, tmp_path / "actions-runner")


# 42: directories of the host


@attack(42, without(MOUNTS, "        if is_within(real, parent):", "        if False:"))
def test_run_shows_nothing_of_the_host_that_was_not_meant(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    engine.state.mkdir(exist_ok=True)
    sources = [
        "/",
        "/etc",
        "/proc/1/root",
        "/run",
        "/var/run/docker.sock",
        str(engine.state),
        f"{tmp_path}/link/etc",
        f"{tmp_path}/../../../etc",
    ]
    for volume in (*(f"{source}:/host" for source in sources), f"{tmp_path}:/host:ro,suid", f"{tmp_path}:/host:rshared"):
        result = engine.run("run", "-v", volume, "--", "touch", str(tmp_path / "ran"))
        assert (result.code, result.out) == (125, ""), volume
        assert "cannot be used" in result.err
        assert len(result.err.splitlines()) <= 2  # a sentence and a hint


_OF_WORKFLOWS = [
    ("/", "is refused: workflows may not name /"), ("/etc", "workflows may not name /etc"), ("/proc/1/root", "permission denied"),
    ("{work}/../../../etc", "is refused"), ("{work}/link/etc", "is a link"), ("..", "is refused"), (".", "is refused"),
    ("../.credentials", "is refused"), ("{state}", "is refused"),
]  # fmt: skip


@attack(
    42,
    without(GITHUB_VOLUMES, "if not any(globs.matches(pattern, real) for pattern in allowed):", "if False:"),
    without(GITHUB_VOLUMES, 'if "/" not in mount.source and not mounts.is_host_path(mount.source):', 'if "/" not in mount.source:'),
    without("runner/adapters/github/places.py", "_STRICTLY = ", "_STRICTLY = 0 and "),
)
def test_workflow_shows_itself_nothing_of_the_host(runner: Runner, engine: Engine) -> None:
    (runner.work / "link").symlink_to("/")
    (runner.root / ".credentials").write_text("secret of the runner")
    for source, reason in _OF_WORKFLOWS:
        options = f"-v {source.format(work=runner.work, state=engine.state)}:/host"
        called = runner.prepare({"image": "toolbox", "createOptions": options}, check=False)
        assert called.code != 0, options
        assert reason in called.log, called.log
    assert engine.jobs() == []


@attack(
    42,
    without(SHIM_MOUNTS, "reason = refusal(volume.source,", "reason = '' and refusal(volume.source,"),
    without(MOUNTS, '            raise _bad(text, f"mode {word!r} is not supported")', "            pass"),
)
def test_pipeline_shows_itself_nothing_that_is_not_the_agents(engine: Engine, tmp_path: Path) -> None:
    agent = docker_shim.install(engine, tmp_path)
    engine.home.joinpath(".ssh").mkdir(exist_ok=True)
    for source in ("/", "/etc", "/usr", "/var/run/docker.sock", str(engine.state)):
        for words in (("-v", f"{source}:/host"), ("--mount", f"type=bind,source={source},target=/host")):
            result = agent.docker("run", "-d", *words, "toolbox", "cat")
            assert result.code == 125, (words, result)
            assert "docker: Error" in result.err or "is refused" in result.err or "cannot be used" in result.err, result.err
    for mode in ("exec", "suid", "dev", "rshared"):
        result = agent.docker("run", "-d", "-v", f"{agent.workspace}:/host:{mode}", "toolbox", "cat")
        assert result.code == 125, mode
        assert f"mode '{mode}' is not supported" in result.err
    assert engine.jobs() == []


# 43: variables as paths and names

_TRICKS = [
    "../../x",
    "a b",
    "'\"",
    "a\nb",
    "$(touch {probe}/evil)",
    "`touch {probe}/evil`",
    "-rf",
    "\u0440roject",
    "x" * 4000,
    "..",
    "/",
    "%s",
]
_TOLD = [
    "CI_JOB_ID",
    "CI_PROJECT_PATH",
    "CI_COMMIT_REF_NAME",
    "CI_COMMIT_BRANCH",
    "CI_PROJECT_NAME",
    "CI_RUNNER_SHORT_TOKEN",
    "CI_CONCURRENT_PROJECT_ID",
]


@attack(
    43,
    without("runner/adapters/gitlab/config.py", 'number if number.isascii() and number.isdigit() and len(number) < 20 else "0"', "number"),
    without("runner/adapters/gitlab/prepare.py", 'c.lower() if c.isascii() and (c.isalnum() or c == ".") else "-"', "c"),
)
@pytest.mark.parametrize("turn", [0, len(_TOLD)])
def test_variables_of_a_job_name_no_path_and_run_nothing(gitlab: GitLab, probe: Path, turn: int) -> None:
    evil = {name: _TRICKS[(turn + number) % len(_TRICKS)].format(probe=probe) for number, name in enumerate(_TOLD)}
    result = gitlab.play(job([f'printf "{name}=%s.\\n" "${name}"' for name in evil], variables={**evil, "N" * 4096: "long"}))
    log = result.log.decode(errors="replace").replace("\r\n", "\n")
    assert result.status == "success", log[-2000:]
    assert [name for name, value in evil.items() if f"{name}={value}." not in log] == []
    assert sorted(os.listdir(probe)) == ["file"]


@attack(
    43,
    without(MOUNTS, '    if ".." in target.split("/"):', "    if False:"),
    without(MOUNTS, "    if not target.isprintable():", "    if False:"),
)
@pytest.mark.parametrize("value", ["../../etc", "a\nb"])
def test_variable_of_a_job_leads_no_cache_elsewhere(gitlab: GitLab, value: str) -> None:
    gitlab.configure(gitlab={"volumes": ["/cache/$WHERE"]})
    result = gitlab.play(job(variables={"WHERE": value}))
    assert (result.failure_reason, result.prepare_attempts) == ("script_failure", 1)
    assert "cannot be used: the target has" in result.log.decode()


# 44: names of images

_IMAGES = [
    "$(touch {probe}/evil)",
    "a;touch {probe}/evil",
    "`id`",
    "--privileged",
    "-v",
    "a|b",
    "../../etc",
    "a\nb",
    "me:hunter2@registry.invalid/a",
]


@attack(44, without("runner/image/reference.py", "    if not registry_name.is_repository(repository):", "    if False:"))
def test_name_of_an_image_that_is_none_is_refused_everywhere_and_runs_nothing(gitlab: GitLab, probe: Path) -> None:
    for name in _IMAGES:
        image = name.format(probe=probe)
        result = gitlab.engine.run("run", f"--image={image}", "--", "true")
        assert (result.code, result.out) == (125, ""), (image, result)
        assert "image name" in result.err, result.err
        assert "hunter2" not in result.err
    for image in ("a;touch {probe}/evil", "--privileged", "me:hunter2@registry.invalid/a"):
        played = gitlab.play(job(image=image.format(probe=probe)))
        assert (played.failure_reason, played.prepare_attempts) == ("script_failure", 1)
        assert b"hunter2" not in played.log
    assert sorted(os.listdir(probe)) == ["file"]


# 45: names in /etc/hosts


@attack(
    45,
    without("runner/adapters/gitlab/services.py", "if not re.fullmatch(_HOST_NAME, name) or name.lower() in _RESERVED:", "if False:"),
    without("runner/adapters/gitlab/services.py", "elif name.lower() in claimed:", "elif False:"),
)
def test_service_takes_no_name_that_is_not_its_own(gitlab: GitLab) -> None:
    wanted = ["localhost", "build", "first", "evil#", "gitlab.example/x"]
    services = [
        {"name": "toolbox", "alias": "first", "command": ["sleep", "60"]},
        {"name": "toolbox", "alias": " ".join([*wanted, "second"]), "command": ["sleep", "60"]},
    ]
    result = gitlab.play(job(["echo begin", "cat /etc/hosts", "echo end"], services=services))
    assert result.status == "success", result.log.decode()
    hosts = result.log.decode().partition("\nbegin\n")[2].partition("\nend\n")[0]
    rows = [line.split() for line in hosts.splitlines() if line.startswith("10.99.0.")]
    names = {name: row[0] for row in rows for name in row[1:]}
    assert sum(len(row) - 1 for row in rows) == len(names)
    assert names["second"] != names["first"] != names["build"]
    assert not {"localhost", "evil#", "gitlab.example/x"} & set(names)


@attack(
    45,
    without("runner/adapters/github/options.py", "if not plain.isalnum() or not plain.isascii() or not address or not all", "if not any"),
)
@pytest.mark.parametrize("entry", ["a#b:10.0.0.1", "a:10.0.0.1#b", "'a b:10.0.0.1'", "'a:10.0.0.1\n10.0.0.2 gitlab.example'"])
def test_workflow_writes_no_line_of_its_own_into_etc_hosts(runner: Runner, entry: str) -> None:
    called = runner.prepare({"image": "toolbox", "createOptions": f"--add-host {entry}"}, check=False)
    assert called.code != 0
    assert "cannot be used" in called.log


@attack(45, without("runner/adapters/jenkins/run_plan.py", "and is_plain)", "and True)"))
@pytest.mark.parametrize("entry", ["a:10.0.0.1\n10.0.0.2 gitlab.example", "a b:10.0.0.1", "a:10.0.0.1 b", "a#:10.0.0.1"])
def test_pipeline_writes_no_line_of_its_own_into_etc_hosts(entry: str) -> None:
    with pytest.raises(errors.UserError, match="--add-host"):
        run_plan._host(entry)
