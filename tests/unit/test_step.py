"""What a step's container is made of: the environment, the directories, the key, the job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import errors, paths
from runner.adapters.github import identity
from runner.adapters.step import caller, environment, key, making, places, run
from runner.adapters.step.asked import Asked, Service
from runner.config import Settings
from runner.job.surroundings import Surroundings
from runner.kernel import process
from runner.model import Account, VolumeSpec
from tests.support.engine import TREE

HOST = {"PATH": "/usr/bin:/bin", "HOME": "/home/runner", "LANG": "C", "BOTH": "host"}
JOB = {
    "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r", "GITHUB_REPOSITORY_ID": "7", "GITHUB_RUN_ID": "1",
    "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "build", "GITHUB_WORKSPACE": "/w/r/r", "RUNNER_NAME": "one", "RUNNER_TEMP": "/w/_temp",
    "RUNNER_WORKSPACE": "/w/r", "RUNNER_TOOL_CACHE": "/w/_tool", "RUNNER_TRACKING_ID": "github_1",
}  # fmt: skip
WORKER = (10, 99)


def test_environment_is_what_the_worker_does_not_have() -> None:
    found = environment.for_step({**HOST, **JOB, "BOTH": "step", "OWN": "1", "PATH": "/x:/usr/bin"}, HOST)
    assert found == {**JOB, "BOTH": "step", "OWN": "1"}


def test_runners_own_variables_pass_also_if_its_host_has_them() -> None:
    outer = {**HOST, "CI": "true", "GITHUB_JOB": "build", "https_proxy": "p"}
    assert environment.for_step({**JOB, "CI": "true", "https_proxy": "p"}, outer) == {**JOB, "CI": "true", "https_proxy": "p"}


def test_without_the_workers_environment_only_the_jobs_own_passes() -> None:
    assert environment.for_step({**HOST, **JOB, "ACTIONS_ID_TOKEN_REQUEST_URL": "u", "OWN": "1"}, None) == {
        **JOB,
        "ACTIONS_ID_TOKEN_REQUEST_URL": "u",
    }
    assert environment.path_first({"PATH": "/x:/bin"}, None) == ()


def test_what_is_not_text_stays_outside() -> None:
    assert environment.for_step({"A": b"caf\xe9".decode(errors="surrogateescape"), "B": "é"}, {}) == {"B": "é"}


def test_entries_of_path_that_steps_have_added_come_first() -> None:
    assert environment.path_first({"PATH": "/b:/a:/usr/bin::/bin"}, HOST) == ("/b", "/a")


@pytest.mark.parametrize("name", ["GITHUB_RUN_ID", "GITHUB_WORKSPACE", "RUNNER_TEMP"])
def test_outside_of_a_job_nothing_is_done(name: str) -> None:
    environment.check(JOB)
    with pytest.raises(errors.UserError, match=f"{name} is not set"):
        environment.check({**JOB, name: ""})


def test_places_are_the_runners_directories_without_those_inside_others() -> None:
    files = {
        "GITHUB_ENV": "/w/_temp/_runner_file_commands/a", "GITHUB_OUTPUT": "/elsewhere/b", "GITHUB_ACTION_PATH": "/w/r/r/.github/x",
        "GITHUB_EVENT_PATH": "/w/_temp/_github_workflow/event.json",
    }  # fmt: skip
    assert places.wanted({**JOB, **files}) == [
        ("/elsewhere", False), ("/w/_actions", True), ("/w/_temp", False), ("/w/_tool", True), ("/w/r", False),
    ]  # fmt: skip


def test_tool_cache_inside_the_workspace_is_no_place_of_its_own() -> None:
    assert ("/w/r/_tool", True) not in places.wanted({**JOB, "RUNNER_TOOL_CACHE": "/w/r/_tool"})


def test_tool_cache_is_writable_for_who_asks() -> None:
    assert ("/w/_tool", False) in places.wanted(JOB, tools="rw")
    assert ("/w/_tool", True) not in places.wanted(JOB, tools="rw")


def test_places_do_not_change_with_the_files_of_each_step() -> None:
    one, two = ({**JOB, "GITHUB_ENV": f"/w/_temp/_runner_file_commands/{n}", "GITHUB_ACTION_PATH": f"/w/_actions/{n}"} for n in "ab")
    assert places.wanted(one) == places.wanted(two)


def test_volumes_leave_out_what_is_missing_and_may_be_replaced(tmp_path: Path) -> None:
    environ = {"RUNNER_WORKSPACE": f"{tmp_path}/r", "RUNNER_TEMP": f"{tmp_path}/t", "RUNNER_TOOL_CACHE": f"{tmp_path}/no"}
    for name in ("r", "t", "s"):
        (tmp_path / name).mkdir()
    found = places.volumes(environ, (f"{tmp_path}/s:{tmp_path}/t:ro",), tools="", state_dir="/state")
    assert found == (
        VolumeSpec(f"{tmp_path}/r", "bind", f"{tmp_path}/r"),
        VolumeSpec(f"{tmp_path}/t", "bind", f"{tmp_path}/s", read_only=True),
    )


def test_state_of_the_engine_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match="state of dockless"):
        places.volumes({"RUNNER_WORKSPACE": f"{tmp_path}"}, (), tools="", state_dir=f"{tmp_path}/state")


def test_working_directory_has_to_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (VolumeSpec(str(tmp_path / "a"), "bind", str(tmp_path / "a")),)
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert places.working_directory("", shown) == f"{tmp_path}/a/b"
    assert places.working_directory("../c", shown) == f"{tmp_path}/a/c"
    assert places.working_directory("/srv", ()) == "/srv"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match="not in sight"):
        places.working_directory("", shown)


def test_key_is_the_same_for_every_step_that_wants_the_same() -> None:
    asked = Asked(image="i", argv=("a",), env=(("A", "1"),), cwd="x", pull="always")
    assert key.make(JOB, WORKER, asked, ()) == key.make({**JOB, "GITHUB_ENV": "f"}, WORKER, Asked(image="i", argv=("b",)), ())
    assert paths.is_job_key(key.make(JOB, WORKER, asked, ()))
    assert key.make(JOB, WORKER, asked, ()).startswith(key.prefix(JOB, WORKER))


@pytest.mark.parametrize(
    "more",
    [
        {"image": "j"}, {"user": "1"}, {"volumes": ("a:/b",)}, {"network": "none"}, {"hostname": "h"}, {"docker": True},
        {"services": (Service("a", "b"),)}, {"service_env": (("A", "1"),)}, {"init": True}, {"tools": "rw"}, {"build_user": "b"},
        {"platform": "p"},
    ],
)  # fmt: skip
def test_key_differs_with_what_the_container_is_made_of(more: dict[str, object]) -> None:
    asked = Asked(image="i")
    assert key.make(JOB, WORKER, asked, ()) != key.make(JOB, WORKER, asked._replace(**more), ())  # type: ignore[arg-type]  # names


@pytest.mark.parametrize(
    "name", ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_NAME", "RUNNER_TEMP"]
)
def test_key_differs_with_the_job(name: str) -> None:
    assert key.prefix(JOB, WORKER) != key.prefix({**JOB, name: "other"}, WORKER)
    assert key.prefix(JOB, WORKER) != key.prefix(JOB, (10, 100))


def plan(tmp_path: Path, asked: Asked, environ: dict[str, str]) -> object:
    around = Surroundings(paths.Store(str(tmp_path)), Settings(), Account("me", 1000, 1000, str(tmp_path)))
    return making.plan(asked, around, environ, key="step-1-0123456789abcdef", worker=WORKER, volumes=(), uid=5)


def test_job_is_the_repositorys_and_ends_with_the_worker(tmp_path: Path) -> None:
    spec = plan(tmp_path, Asked(image="i", services=(Service("db:1", "db"),), service_env=(("A", "1"),), user="5"), JOB)
    assert (spec.owner, spec.shared_id, spec.marks) == (WORKER, 5, (("RUNNER_TRACKING_ID", "github_1"),))  # type: ignore[attr-defined]
    (container,), (service,) = spec.containers, spec.services  # type: ignore[attr-defined]
    assert (container.image, container.entrypoint, container.user) == ("i", (), "5")
    assert (service.image, service.aliases, service.env, service.volumes) == ("db:1", ("db",), (("A", "1"),), ())


def test_trust_domain_is_the_repository_unless_the_configuration_says_otherwise() -> None:
    renamed = {**JOB, "GITHUB_SERVER_URL": "https://GitHub.com/", "GITHUB_REPOSITORY": "new/name"}
    assert making.trust_domain(JOB, "repository") == making.trust_domain(renamed, "repository")
    others = [{**JOB, "GITHUB_REPOSITORY_ID": "8"}, {**JOB, "GITHUB_REPOSITORY_ID": ""}, {**JOB, "GITHUB_SERVER_URL": "https://ghe"}]
    names = {making.trust_domain(environ, kind) for environ in (JOB, *others) for kind in ("repository", "owner", "runner")}
    assert len(names) == 8
    odd = {**JOB, "GITHUB_REPOSITORY_ID": "../x", "GITHUB_REPOSITORY": "ü/ö"}
    assert [paths.component(name) for name in (*names, making.trust_domain(odd, "repository"), making.trust_domain(odd, "owner"))]


@pytest.mark.parametrize("kind", ["repository", "owner", "runner"])
@pytest.mark.parametrize("more", [{}, {"GITHUB_REPOSITORY_ID": "", "GITHUB_REPOSITORY": "A/b"}, {"GITHUB_REPOSITORY_OWNER_ID": "3"}])
def test_trust_domain_is_that_of_the_container_hooks(kind: str, more: dict[str, str]) -> None:
    assert making.trust_domain({**JOB, **more}, kind) == identity.build_user({**JOB, **more}, kind)


def test_user_by_name_is_found_in_the_topmost_layer_that_has_users(tmp_path: Path) -> None:
    for number, rows in enumerate(["", "app:x:1001:1001::/:\n", "app:x:7:7::/:\n"]):
        (tmp_path / f"{number}/etc").mkdir(parents=True)
        if rows:
            (tmp_path / f"{number}/etc/passwd").write_text(rows)
    lowers = tuple(str(tmp_path / str(number)) for number in range(3))
    assert making.named(lowers, "app") == making.named(lowers, "app:wheel") == 1001
    assert making.named(lowers, "nobody") == making.named((), "app") == 0


def test_script_alone_is_given_to_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("true")
    assert run.command((str(script),), temporary=f"{tmp_path}/")[0] == "sh"
    assert run.command((str(script),), temporary=f"{tmp_path}/")[-1] == str(script)
    assert run.command((str(script),), temporary="/elsewhere") == (str(script),)
    assert run.command(("bash", str(script)), temporary=str(tmp_path)) == ("bash", str(script))
    script.chmod(0o755)
    assert run.command((str(script),), temporary=str(tmp_path)) == (str(script),)


def found_from(levels: int, environ: dict[str, str]) -> caller.Worker:
    """Look for the worker from below some shells, which have a step's environment."""
    program = f"from runner.adapters.step import caller; import os; print(list(caller.find({environ!r}).process))"
    argv = [sys.executable, "-c", program]
    for _ in range(levels):
        argv = ["sh", "-c", '"$@"; exit $?', "sh", *argv]
    done = subprocess.run(argv, cwd=TREE, env={**os.environ, **environ}, capture_output=True, text=True, check=True, timeout=60)
    pid, started = json.loads(done.stdout)
    return caller.Worker((pid, started), None)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_worker_is_the_nearest_process_that_is_not_of_the_job(levels: int) -> None:
    assert found_from(levels, {"GITHUB_RUN_ID": "1", "GITHUB_JOB": "x"}).process == (os.getpid(), process.start_time(os.getpid()))


def test_everybody_above_is_of_the_job_when_nothing_tells_them_apart() -> None:
    assert found_from(1, {}).process == (0, 0)
