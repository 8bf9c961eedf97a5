"""`dockless doctor` on this machine, and on the same machine made worse: files of the host are covered in a mount namespace."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, Result

# as ourselves but with the right to mount: what is covered is gone for every program inside, setuid helpers have no power there at all
_WORSE = ("unshare", "--user", "--map-current-user", "--mount", "--keep-caps")
_ROOT = ("unshare", "--user", "--map-root-user")


def run_inside(engine: Engine, surroundings: tuple[str, ...], *arguments: str, script: str = "") -> Result:
    """Run a command of the engine in other surroundings, after a shell script in them."""
    argv = [*surroundings, "sh", "-ec", f'{script}\nexec "$@"', "sh", *engine.argv(*arguments)]
    done = subprocess.run(argv, env=engine.environ(), capture_output=True, text=True, timeout=60, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def checks(result: Result) -> dict[str, dict[str, Any]]:
    """Return the answer of `doctor --json` by the checks' names."""
    return {check["name"]: check for check in json.loads(result.out)}


def test_this_machine_passes_and_the_store_is_not_made(engine: Engine) -> None:
    result = engine.run("doctor")
    assert (result.code, result.err) == (0, "")
    assert "\nok       container " in result.out
    assert "failed   " not in result.out
    assert result.out.splitlines()[-1].startswith(("0 failed", "everything is fine"))
    assert not engine.state.exists()
    assert list(engine.home.iterdir()) == []
    assert [path.name for path in engine.state.parent.iterdir() if path.name.startswith(".")] == []


def test_json_is_a_list_of_checks_with_four_texts_each(engine: Engine) -> None:
    result = engine.run("doctor", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert {tuple(check) for check in found} == {("name", "state", "found", "mend")}
    assert {type(value) for check in found for value in check.values()} == {str}
    assert {check["state"] for check in found} <= {"ok", "warning"}
    assert all((check["mend"] == "") is (check["state"] == "ok") for check in found)
    assert len({check["name"] for check in found}) == len(found) > 20


def test_both_answers_have_the_same_checks(engine: Engine) -> None:
    lines = engine.run("doctor").out.splitlines()
    told = [line for line in lines if line.startswith(("ok ", "warning ", "failed "))]
    names = [check["name"] for check in json.loads(engine.run("doctor", "--json").out)]
    assert len(told) == len(names)
    assert all(line[9:].startswith(name) for line, name in zip(told, names, strict=True))


def test_existing_store_is_looked_at_and_left_as_it_is(engine: Engine) -> None:
    assert engine.run("images").code == 0
    before = sorted(str(path) for path in engine.state.rglob("*"))
    assert engine.run("doctor").code == 0
    assert sorted(str(path) for path in engine.state.rglob("*")) == before


@pytest.mark.parametrize(
    ("program", "mend"),
    [
        ("/usr/bin/newuidmap", "apt-get install uidmap"),
        ("/usr/bin/slirp4netns", "apt-get install slirp4netns"),
        ("/usr/sbin/nft", "apt-get install nftables"),
        ("/usr/bin/crun", "apt-get install crun"),
    ],
)
def test_missing_program_fails_with_the_command_that_installs_it(engine: Engine, program: str, mend: str) -> None:
    result = run_inside(engine, _WORSE, "doctor", "--json", script=f"mount --bind /dev/null {os.path.realpath(program)}")
    check = checks(result)[os.path.basename(program)]
    assert result.code == 1
    assert (check["state"], check["found"], check["mend"]) == ("failed", "not installed", mend)


def test_failure_is_told_with_its_command_on_the_next_line(engine: Engine) -> None:
    lines = run_inside(engine, _WORSE, "doctor", script="mount --bind /dev/null /usr/bin/newuidmap").out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("failed   newuidmap "))
    assert lines[place + 1].split(maxsplit=1) == ["$", "apt-get install uidmap"]


def test_programs_of_the_callers_path_do_not_count(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "crun").write_text("#!/bin/sh\necho crun version 99.9\n")
    (tmp_path / "crun").chmod(0o755)
    found = checks(engine.run("doctor", "--json", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}))
    assert "99.9" not in found["crun"]["found"]


@pytest.mark.parametrize(("grants", "words"), [("", "none for"), ("{name}:100000:1000\n", "1000 for")])
def test_account_without_subordinate_ids_is_granted_some(engine: Engine, tmp_path: Path, grants: str, words: str) -> None:
    name = checks(engine.run("doctor", "--json"))["account"]["found"].split()[0]
    (tmp_path / "grants").write_text(grants.format(name=name))
    cover = f"mount --bind {tmp_path}/grants /etc/subuid; mount --bind {tmp_path}/grants /etc/subgid"
    result = run_inside(engine, _WORSE, "doctor", "--json", script=cover)
    found = checks(result)
    assert result.code == 1
    assert found["subordinate ids"]["state"] == "failed"
    assert words in found["subordinate ids"]["found"]
    assert found["subordinate ids"]["mend"] == f"usermod --add-subuids 524288-2621439 --add-subgids 524288-2621439 {name}"
    assert found["container"]["mend"] == found["subordinate ids"]["mend"]


def test_one_slice_is_a_warning(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "grants").write_text(f"{os.getuid()}:100000:65536\n")
    cover = f"mount --bind {tmp_path}/grants /etc/subuid; mount --bind {tmp_path}/grants /etc/subgid"
    check = checks(run_inside(engine, _WORSE, "doctor", "--json", script=cover))["subordinate ids"]
    assert check["state"] == "warning"
    assert check["mend"].startswith("usermod --add-subuids 524288-")


def test_host_that_forbids_user_namespaces_is_recognised(engine: Engine) -> None:
    result = run_inside(engine, _WORSE, "doctor", "--json", script="echo 0 > /proc/sys/user/max_user_namespaces")
    check = checks(result)["user namespaces"]
    assert (result.code, check["state"]) == (1, "failed")
    assert "user.max_user_namespaces is 0" in check["found"]
    assert check["mend"] == "echo user.max_user_namespaces=65536 >> /etc/sysctl.d/90-dockless.conf && sysctl --system"


def test_process_that_may_gain_no_privileges_is_recognised(engine: Engine) -> None:
    found = checks(run_inside(engine, ("setpriv", "--no-new-privs"), "doctor", "--json"))
    assert found["newuidmap"]["state"] == found["id maps"]["state"] == "failed"
    assert "no_new_privs" in found["newuidmap"]["found"]
    assert "NoNewPrivileges=no" in found["id maps"]["mend"]


def test_missing_device_and_profile_are_recognised(engine: Engine) -> None:
    cover = "mount -t tmpfs none /dev/net; mount -t tmpfs none /usr/share/containers"
    found = checks(run_inside(engine, _WORSE, "doctor", "--json", script=cover))
    assert (found["tun device"]["state"], found["tun device"]["mend"]) == ("failed", "modprobe tun && chmod 666 /dev/net/tun")
    assert found["seccomp profile"]["state"] == "failed"
    assert "golang-github-containers-common" in found["seccomp profile"]["mend"]


def test_small_file_system_is_recognised(engine: Engine) -> None:
    engine.state.mkdir()
    cover = f"mount -t tmpfs -o size=1m,mode=700 none {engine.state}"
    check = checks(run_inside(engine, _WORSE, "doctor", "--json", script=cover))["free space"]
    assert (check["state"], check["mend"]) == ("failed", "dockless gc")


def test_full_file_system_is_explained_and_not_a_crash(engine: Engine) -> None:
    engine.state.mkdir()
    cover = f"mount -t tmpfs -o nr_inodes=1,mode=700 none {engine.state}"
    result = run_inside(engine, _WORSE, "doctor", "--json", script=cover)
    check = checks(result)["state directory"]
    assert (check["state"], check["mend"]) == ("failed", "dockless gc")
    assert result.err == ""


def test_state_directory_that_is_closed_to_the_account_is_recognised(engine: Engine) -> None:
    engine.state.mkdir()
    engine.state.chmod(0o500)
    result = engine.run("doctor", "--json")
    check = checks(result)["state directory"]
    engine.state.chmod(0o700)
    assert (result.code, check["state"]) == (1, "failed")
    assert check["mend"].startswith("install -d -m 700 -o ")
    assert check["mend"].endswith(str(engine.state))


def test_broken_configuration_is_a_check_like_any_other(engine: Engine) -> None:
    engine.config.write_text("imagse: {}\n")
    result = engine.run("doctor", "--json")
    found = checks(result)
    assert result.code == 1
    assert found["configuration"]["state"] == "failed"
    assert "imagse" in found["configuration"]["found"]
    assert "did you mean images?" in found["configuration"]["mend"]
    assert found["container"]["state"] == "ok"


def test_root_is_not_checked_but_the_configured_account(engine: Engine) -> None:
    engine.config.write_text("account: nobody-of-this-name\n")
    result = run_inside(engine, _ROOT, "doctor", "--json")
    found = checks(result)
    assert result.code == 1
    assert list(found) == ["configuration", "account"]
    assert found["account"]["found"] == "nobody-of-this-name does not exist"
    assert found["account"]["mend"] == "useradd --system --user-group --create-home nobody-of-this-name"


def test_root_may_name_another_account_and_never_itself(engine: Engine) -> None:
    result = run_inside(engine, _ROOT, "doctor", "--account", "root")
    assert result.code == 1
    assert "root is root, whose rights the engine is never to have" in result.out


def test_user_without_an_account_is_told_so(engine: Engine) -> None:
    result = run_inside(engine, ("unshare", "--user", "--map-user=4711"), "doctor", "--json")
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out) == [
        {
            "name": "account",
            "state": "failed",
            "found": "user 4711 has no account",
            "mend": "useradd --system --user-group --create-home --uid 4711 dockless",
        }
    ]


def test_only_root_may_check_another_account(engine: Engine) -> None:
    result = engine.run("doctor", "--account", "daemon")
    assert result.code == 1
    assert result.out == ""
    assert result.err.splitlines() == [
        "ERROR: doctor: account daemon can only be checked by itself or by root",
        "(runuser -u daemon -- dockless doctor)",
    ]
