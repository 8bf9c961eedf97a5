"""What `dockless doctor` finds out: real probes on this machine, some of whose places are files of the test."""

from pathlib import Path

import pytest

from runner.config import Settings
from runner.job import checks, facts
from runner.job.checks import FAILED, OK, Check
from runner.job.facts import Places
from runner.kernel import accounts


class Host:
    """This machine with some of its places replaced by files of a test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.account = accounts.current()
        self.state = directory / "state"
        self.programs = directory / "bin"
        self.programs.mkdir()

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def install(self, name: str, script: str, *, mode: int = 0o755) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(mode)

    def check(self, places: Places, settings: Settings = Settings()) -> dict[str, Check]:  # noqa: B008 - immutable
        found = checks.judge(facts.gather(self.account, str(self.state), settings, places=places))
        assert not self.state.exists()
        assert not [path for path in self.directory.iterdir() if path.name.startswith(".dockless")]
        return {check.name: check for check in found}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_this_machine_runs_a_container_and_keeps_no_trace_of_it(host: Host) -> None:
    found = host.check(Places())
    assert [check for check in found.values() if check.state == FAILED] == []
    assert found["container"].found == "`true` ran in one"


def test_programs_are_looked_for_where_the_engine_starts_them_from(host: Host) -> None:
    host.install("crun", "echo crun version 1.99.9")
    host.install("slirp4netns", "echo no library >&2; exit 127")
    host.install("nft", "exit 0", mode=0o644)
    host.install("newuidmap", "exit 0")
    found = host.check(Places(path=str(host.programs)))
    assert found["crun"].found == f"1.99.9 ({host.programs}/crun)"
    assert found["slirp4netns"].found == "does not run: slirp4netns exited with 127: no library"
    assert [found[name].found for name in ("nft", "ip", "newgidmap")] == ["not installed"] * 3
    assert "is not setuid root" in found["newuidmap"].found
    assert found["packet filter"].found == "not tried: needs nft"
    assert found["network devices"].found == "not tried: needs ip"
    assert found["packet filter"].mend == "apt-get install nftables"
    assert found["container"].state == FAILED


def test_the_configured_gitlab_runner_is_the_one_that_counts(host: Host) -> None:
    host.install("gitlab-runner", "echo Version: 17.5.0")
    settings = Settings()
    named = settings._replace(gitlab=settings.gitlab._replace(runner_binary=f"{host.programs}/gitlab-runner"))
    assert host.check(Places(), named)["gitlab-runner"].found == f"17.5.0 ({host.programs}/gitlab-runner)"


@pytest.mark.parametrize("count", [0, 1, 65535])
def test_an_account_with_too_few_ids_gets_nothing_tried_that_needs_them(host: Host, count: int) -> None:
    grants = host.write("subuid", f"{host.account.name}:300000:{count}\nsomebody:500000:65536\n")
    found = host.check(Places(subuid=grants, subgid=grants))
    assert found["subordinate ids"].state == FAILED
    assert found["subordinate ids"].mend.startswith("usermod --add-subuids 589824-")
    needing = ("id maps", "overlay", "whiteouts", "proc", "network devices", "packet filter", "container")
    assert {found[name].found for name in needing} == {"not tried: needs subordinate ids"}
    assert found["user attributes"].state == OK


def test_ids_that_newuidmap_does_not_grant_are_found_out(host: Host) -> None:
    grants = host.write("subuid", f"{host.account.name}:4000000000:131072\n")
    found = host.check(Places(subuid=grants))
    assert found["subordinate ids"].state == OK
    assert "newuidmap" in found["id maps"].found
    assert found["container"].found == "not tried: needs id maps"


def test_a_missing_tun_device_and_a_damaged_profile_are_failures(host: Host) -> None:
    found = host.check(Places(tun=f"{host.directory}/tun", profile=host.write("seccomp.json", "{")))
    assert found["tun device"].state == found["seccomp profile"].state == FAILED
    assert found["container"].found == "not tried: needs tun device"


def test_settings_and_the_state_of_this_process_are_read(host: Host) -> None:
    status = host.write("status", "Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    host.write("sysctls/user/max_user_namespaces", "0\n")
    places = Places(status=status, sysctls=f"{host.directory}/sysctls")
    found = facts.gather(host.account, str(host.state), Settings(), places=places)
    assert (found.filtered, found.no_new_privileges) == (True, True)
    assert found.sysctls["user.max_user_namespaces"] == "0"
    assert found.sysctls["kernel.unprivileged_userns_clone"] == ""


def test_a_state_directory_that_cannot_be_made_is_the_failure(host: Host) -> None:
    found = {check.name: check for check in checks.judge(facts.gather(host.account, "/proc/1/dockless", Settings()))}
    assert found["state directory"].state == FAILED
    assert "/proc/1/dockless cannot be written" in found["state directory"].found
    assert found["overlay"].mend == found["container"].mend == found["state directory"].mend != ""
    assert found["network devices"].state == OK


def test_the_format_of_an_existing_store_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("99\n")
    found = facts.gather(accounts.current(), str(tmp_path), Settings())
    assert found.format == "99"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["format"]
