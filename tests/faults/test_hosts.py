"""Hosts that are not what they should be: mistakes in the configuration, programs or ids that are missing, hybrid control groups."""

from typing import NamedTuple

import pytest

from tests.support import faults, worse_hosts
from tests.support.faults import CODES, SYSTEM, USER
from tests.support.gitlab_jobs import GitLab, job, output, text_of
from tests.support.gitlab_replay import Replay
from tests.support.worse_hosts import Scripts

# configurations


class Mistake(NamedTuple):
    """A configuration, and what a person is told about it."""

    text: str
    says: str
    hint: str


MISTAKES = {
    "unknown": Mistake("quota: 5\n", "quota is not a setting", "known keys: account, docker, gc, github, "),
    "misspelt": Mistake("imagse: {}\n", "imagse is not a setting", "did you mean images?"),
    "misspelt below": Mistake(
        "gitlab: {allowed_usres: []}\n", "gitlab.allowed_usres is not a setting", "did you mean gitlab.allowed_users?"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_the_configuration_is_told_before_anything_is_made(gitlab: GitLab, mistake: str) -> None:
    given = MISTAKES[mistake]
    gitlab.engine.config.write_text(given.text)
    for arguments, code in ((["run", "--", "true"], CODES["run"][USER]), (["pull", "app"], CODES["pull"][USER]), (["gc"], 1)):
        result = gitlab.engine.run(*arguments)
        assert (result.code, result.out) == (code, "")
        assert result.err.startswith(f"ERROR: configuration {gitlab.engine.config}: {given.says}\n({given.hint}")
        assert faults.is_explained(result.err)
    assert not gitlab.engine.state.exists()


def test_mistake_in_the_configuration_is_not_the_jobs_fault(gitlab: GitLab) -> None:
    given = MISTAKES["misspelt below"]
    gitlab.engine.config.write_text(given.text)
    result = gitlab.play(job())
    log = result.log.decode()
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert log.count(f"ERROR: configuration {gitlab.engine.config}: {given.says}\n({given.hint}") == 3
    assert "Traceback" not in log
    assert not gitlab.engine.state.exists()


def test_configuration_that_breaks_before_prepare_is_not_the_jobs_fault(gitlab: GitLab) -> None:
    broken = gitlab.temporary / "config.yaml"
    broken.write_text(MISTAKES["misspelt"].text)
    driver = {**gitlab.driver(), "prepare": [*gitlab.engine.argv(), "--config", str(broken), "gitlab", "prepare"]}
    attempt = Replay(driver, job(), env=gitlab.environment()).attempt()
    assert attempt.prepare().returncode == CODES["gitlab"][SYSTEM]
    assert f"{broken}: {MISTAKES['misspelt'].says}" in text_of(attempt)
    assert faults.is_explained(text_of(attempt))
    assert attempt.cleanup().returncode == 0
    assert gitlab.engine.leftovers() == []


def test_configuration_that_breaks_under_a_job_keeps_nobody_from_ending_it(gitlab: GitLab) -> None:
    with gitlab.prepared() as attempt:
        gitlab.engine.config.write_text(MISTAKES["misspelt"].text)
        assert output(attempt, "echo still here") == "still here\n"
        assert attempt.cleanup().returncode == 0, bytes(attempt.build.runner_log).decode()
        assert gitlab.engine.leftovers() == []


# what is not installed, and what was not granted


class Lack(NamedTuple):
    """What a host lacks, and what a person is told about it."""

    scripts: Scripts
    says: str
    hint: str


LACKS = {
    "newuidmap": Lack(
        worse_hosts.without("/usr/bin/newuidmap"), "cannot start a keeper: newuidmap is not installed", "run `dockless doctor`"
    ),
    "crun": Lack(worse_hosts.without("/usr/bin/crun"), "crun is not installed", "apt-get install crun"),
    "slirp4netns": Lack(
        worse_hosts.without("/usr/bin/slirp4netns"), "cannot start a keeper: slirp4netns is not installed", "apt-get install slirp4netns"
    ),
    "nft": Lack(worse_hosts.without("/usr/sbin/nft"), "cannot start a keeper: nft is not installed", "apt-get install nftables"),
    "seccomp profile": Lack(
        Scripts("mount -t tmpfs none /usr/share/containers"),
        "seccomp profile /usr/share/containers/seccomp.json is missing",
        "apt-get install golang-github-containers-common",
    ),
    "subordinate ids": Lack(
        Scripts("mount --bind /dev/null /etc/subuid; mount --bind /dev/null /etc/subgid"),
        "has no 65536 subordinate ids in /etc/subuid and /etc/subgid",
        "usermod --add-subuids ",
    ),
}


@pytest.mark.parametrize("lack", LACKS)
def test_container_that_the_host_cannot_have_is_told_what_to_install(gitlab: GitLab, lack: str) -> None:
    given = LACKS[lack]
    result = worse_hosts.run(gitlab.engine.argv("run", "--", "true"), env=gitlab.environment(), scripts=given.scripts)
    assert (result.code, result.out) == (CODES["run"][SYSTEM], "")
    assert f"{given.says}\n({given.hint}" in result.err
    assert faults.is_explained(result.err), result.err
    assert gitlab.engine.leftovers() == []


@pytest.mark.parametrize("lack", ["newuidmap", "crun", "slirp4netns", "subordinate ids"])
def test_job_that_the_host_cannot_have_is_a_system_failure(gitlab: GitLab, lack: str) -> None:
    given = LACKS[lack]
    result = worse_hosts.play(gitlab, job(), scripts=given.scripts)
    assert (result.failure_reason, result.prepare_attempts) == ("runner_system_failure", 3)
    assert result.log.count(f"{given.says}\033[0;m\n({given.hint}") == 3, result.log
    assert "Traceback" not in result.log
    assert "internal error" not in result.log
    assert result.runner_log == ""


# control groups

# the second version's hierarchy is there, its controllers are not
HYBRID = Scripts("for place in $(findmnt -n -o TARGET -t cgroup2); do mount -t tmpfs none $place; done")
WORDS = "are not enforced on this machine: controllers memory, cpu, pids are not available: the machine uses cgroup v1 or a hybrid"


def test_limits_on_a_hybrid_host_are_one_warning_and_the_container_runs(gitlab: GitLab) -> None:
    arguments = ["run", "--memory", "64m", "--cpus", "0.5", "--", "echo", "it runs"]
    result = worse_hosts.run(gitlab.engine.argv(*arguments), env=gitlab.environment(), scripts=HYBRID)
    assert (result.code, result.out) == (0, "it runs\n")
    assert result.err == f"WARNING: limits of memory, cpus {WORDS}\n"


def test_limits_of_a_job_on_a_hybrid_host_are_one_warning_and_the_job_runs(gitlab: GitLab) -> None:
    gitlab.configure(limits={"pids": 1000}, service_limits={"memory": "64m"}, gitlab={"wait_for_services_timeout": -1})
    service = {"name": "toolbox", "command": ["sleep", "4712"]}
    result = worse_hosts.play(gitlab, job("echo it 'runs'", services=[service]), scripts=HYBRID)
    assert result.status == "success", result.log
    assert "it runs\n" in result.log
    assert result.log.count(f"WARNING: limits of memory, pids {WORDS}") == 1
    assert result.log.count("limits of") == 1


def test_hybrid_host_without_limits_is_not_mentioned(gitlab: GitLab) -> None:
    result = worse_hosts.run(gitlab.engine.argv("run", "--", "true"), env=gitlab.environment(), scripts=HYBRID)
    assert (result.code, result.err) == (0, "")
