"""`dockless df` and `dockless gc` with real jobs, volumes and pulls: what is idle goes, what is used stays, and the sizes are true."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.kernel import accounts, locks
from runner.sandbox import build_users
from tests.support.engine import Engine, wait_until
from tests.support.faults import entries, leases
from tests.support.gitlab_jobs import GitLab, job, output, text_of
from tests.support.images import BuiltImage, build_image, busybox_layer, file, write_oci_layout
from tests.support.locks import Holder
from tests.support.registries import Answer, LyingRegistry, Request

ALL = ("--high", "0", "--low", "0")
NOTHING: dict[str, list[str]] = {"blobs": [], "images": [], "layers": []}


def image(tmp_path: Path, name: str) -> str:
    """Lay down an image with a layer that no other one has, and one that all have."""
    write_oci_layout(tmp_path / name, built(name))
    return f"oci:{tmp_path}/{name}"


def built(name: str) -> BuiltImage:
    return build_image([busybox_layer(), [file(name, os.urandom(100_000))]])


def run(engine: Engine, *arguments: str) -> str:
    result = engine.run("run", "--network", "none", *arguments)
    assert result.code == 0, result.err
    return result.out


@contextmanager
def running(engine: Engine, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Have a container that waits for a line, after which it has to end well."""
    options = arguments[: arguments.index("--")]
    command = " ".join(arguments[arguments.index("--") + 1 :])
    process = engine.start("run", "--network", "none", *options, "--", "sh", "-c", f"echo ready; read line; {command}")
    assert process.stdout and process.stdout.readline() == "ready\n"
    yield process
    _, errors = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0, errors


def answer(engine: Engine, *arguments: str) -> Any:
    result = engine.run(*arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def gc(engine: Engine, *arguments: str) -> Any:
    return answer(engine, "gc", *arguments)


def gone(answered: Any) -> list[tuple[str, str]]:
    return [(each["kind"], each["name"]) for each in answered["deletions"] if each["kind"] not in ("blob", "layer", "spare blob")]


def volumes(engine: Engine) -> list[str]:
    return sorted("/".join(path.parts[-3:]) for path in engine.state.glob("volumes/*/*/*") if not path.name.startswith("."))


def age(engine: Engine, days: float) -> None:
    """Make everything that has a last use look older."""
    for path in (*engine.state.glob("images/*.json"), *engine.state.glob("volumes/*/*/.*.used"), *engine.state.glob("storage/*/*/.*.used")):
        then = path.stat().st_mtime - days * 86400
        os.utime(path, (then, then))


# --- what stays and what goes


def test_running_job_keeps_its_volume_and_its_layers_and_idle_ones_go(engine: Engine, tmp_path: Path) -> None:
    used, idle = image(tmp_path, "used"), image(tmp_path, "idle")
    run(engine, "--image", idle, "-v", "idle:/v", "--build-user", "idle", "--", "sh", "-c", "echo kept > /v/file")
    with running(engine, "--image", used, "-v", "cache:/v", "--", "cat /used > /dev/null && echo kept > /v/file"):
        before = entries(engine)
        answered = gc(engine, *ALL)
        assert {("volume", "idle/0/named-idle"), ("image", idle)} <= set(gone(answered))
        assert volumes(engine) == ["local/0/named-cache"]
        left = entries(engine)
        assert len(left["images"]) == 1 and len(left["blobs"]) == 4 < len(before["blobs"])
        assert list(engine.state.glob("layers/*/*/used"))
    assert run(engine, "--image", used, "-v", "cache:/v", "--", "cat", "/v/file") == "kept\n"
    gc(engine, *ALL)
    assert (entries(engine), volumes(engine), leases(engine)) == (NOTHING, [], {})
    assert answer(engine, "df")["total"] == 0


def test_plain_gc_leaves_what_is_within_its_limits(engine: Engine, tmp_path: Path) -> None:
    engine.config.write_text("gc: {high: 100, volumes_max_age: 10d}\n")
    name = image(tmp_path, "app")
    run(engine, "--image", name, "-v", "cache:/v", "--", "true")
    before = entries(engine), volumes(engine), leases(engine)
    age(engine, 9)
    assert gc(engine)["deletions"] == []
    assert (entries(engine), volumes(engine), leases(engine)) == before
    age(engine, 2)
    assert gone(gc(engine)) == [("volume", "local/0/named-cache")]
    assert entries(engine) == before[0]


def test_volume_that_was_used_again_is_young_again(engine: Engine) -> None:
    engine.config.write_text("gc: {high: 100, volumes_max_age: 10d}\n")
    run(engine, "-v", "cache:/v", "--", "true")
    age(engine, 20)
    run(engine, "-v", "cache:/v", "--", "true")
    assert gc(engine)["deletions"] == []


def test_image_that_a_run_used_is_the_last_to_go(engine: Engine, tmp_path: Path) -> None:
    first, second = image(tmp_path, "first"), image(tmp_path, "second")
    run(engine, "--image", first, "--", "true")
    run(engine, "--image", second, "--", "true")
    age(engine, 5)
    run(engine, "--image", first, "--", "true")
    assert gone(gc(engine, *ALL, "--dry-run")) == [("image", second), ("image", first)]


def test_volumes_of_one_build_user_are_bounded_by_size(engine: Engine) -> None:
    engine.config.write_text("gc: {high: 100, volumes_max_size: 1m}\n")
    for name in ("old", "new"):
        run(engine, "-v", f"{name}:/v", "--build-user", "team", "--", "sh", "-c", "head -c 600000 /dev/zero > /v/file; chmod 0 /v/file")
        age(engine, 1)
    run(engine, "-v", "other:/v", "--build-user", "another", "--", "sh", "-c", "head -c 600000 /dev/zero > /v/file")
    assert gone(gc(engine)) == [("volume", "team/0/named-old")]


def test_storage_of_nested_engines_goes_like_volumes(engine: Engine) -> None:
    storage = engine.state / "storage/local/podman"
    with running(engine, "--", "true"):  # has slot 0
        for slot in ("0", "1"):
            (storage / slot / "overlay").mkdir(parents=True)
            (storage / slot / "overlay/file").write_bytes(bytes(100_000))
        assert gone(gc(engine, *ALL)) == [("storage", "local/podman/1")]
        assert leases(engine) == {"local": 0}
    assert gone(gc(engine, *ALL)) == [("storage", "local/podman/0")]
    assert (list((engine.state / "storage").iterdir()), leases(engine)) == ([], {})


# --- sizes


def test_gc_frees_what_df_showed(engine: Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(
            engine,
            "--image",
            image(tmp_path, name),
            "-v",
            f"{name}:/v",
            "--",
            "sh",
            "-c",
            "head -c 70000 /one > /v/f; chown -R 5:5 /v; chmod 700 /v",
        )
    crashed = engine.start("run", "--network", "none", "--", "sh", "-c", "echo ready; head -c 300000 /dev/zero > /big; read line")
    assert crashed.stdout and crashed.stdout.readline() == "ready\n"
    crashed.kill()
    crashed.communicate()
    (engine.state / "blobs/partial" / ("a" * 64)).write_bytes(bytes(9000))
    (engine.state / "volumes/local/0/.x.0123abcd.gone").mkdir()
    (engine.state / "volumes/local/0/.x.0123abcd.gone/file").write_bytes(bytes(50_000))
    shown = answer(engine, "df")
    assert [row["kind"] for row in shown["kinds"] if not row["size"]] == ["build storage"]
    assert shown["total"] == sum(row["size"] for row in shown["kinds"]) == sum(row["reclaimable"] for row in shown["kinds"])
    planned = gc(engine, *ALL, "--dry-run")
    assert answer(engine, "df")["total"] == shown["total"]
    done = gc(engine)
    left = answer(engine, "df")
    assert shown["total"] - left["total"] == done["freed"] > 0
    rest = gc(engine, *ALL)
    assert left["total"] - answer(engine, "df")["total"] == rest["freed"]
    assert done["freed"] + rest["freed"] == planned["freed"] == shown["total"]


def test_answers_for_people(engine: Engine, tmp_path: Path) -> None:
    name = image(tmp_path, "app")
    run(engine, "--image", name, "-v", "cache:/v", "--", "true")
    shown = engine.run("df", "-v").out
    assert shown.splitlines()[0].split() == ["KIND", "COUNT", "SIZE", "RECLAIMABLE"]
    assert "local/0/named-cache" in shown and name in shown and "gc.high is 85 %" in shown
    planned = engine.run("gc", *ALL, "--dry-run").out
    assert "only image" in planned and "would free" in planned and volumes(engine)
    done = engine.run("gc", *ALL).out
    assert "removed volume local/0/named-cache" in done and "freed" in done.splitlines()[-1]
    assert engine.run("gc", *ALL).out == "freed 0 B\n"


# --- beside pulls, jobs, and itself


def test_gc_beside_a_pull_takes_nothing_of_it(engine: Engine) -> None:
    registry, go_on = LyingRegistry(), threading.Event()
    app = built("app")
    registry.add(app, "team/app", "v1")

    def stall(request: Request, answer: Answer) -> Answer | None:
        if app.layer_digests[1] in request.path:
            go_on.wait(60)
        return None

    registry.lie = stall
    with registry.running() as (host, _):
        pull = engine.start("pull", f"{host}/team/app:v1")
        first = engine.state / "blobs/sha256" / app.layer_digests[0].removeprefix("sha256:")
        assert wait_until(first.exists)
        try:
            assert gc(engine, *ALL)["deletions"] == []
        finally:
            go_on.set()
        assert pull.wait(60) == 0, pull.communicate()
        pull.communicate()
        assert len(run(engine, "--image", f"{host}/team/app:v1", "--pull", "never", "--", "cat", "/app")) > 0


def test_two_collectors_at_once_take_turns(engine: Engine, tmp_path: Path) -> None:
    run(engine, "--image", image(tmp_path, "app"), "-v", "cache:/v", "--", "sh", "-c", "head -c 99999 /dev/zero > /v/f")
    before = answer(engine, "df")["total"]
    both = [engine.start("gc", *ALL, "--json") for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(each["freed"] for each in answers) == before
    assert answer(engine, "df")["total"] == 0


def test_jobs_beside_collectors_all_succeed(engine: Engine, tmp_path: Path) -> None:
    name = image(tmp_path, "app")
    run(engine, "--image", name, "--", "true")
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            engine.run("gc", *ALL)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(8):
            options = ("-v", f"cache{number % 2}:/v", "--build-user", f"user{number % 3}")
            assert run(engine, "--image", name, *options, "--", "sh", "-c", "cat /app > /v/file; wc -c < /v/file").strip() == "100000"
    finally:
        stop.set()
        collector.join()
    gc(engine, *ALL)
    assert (entries(engine), volumes(engine), leases(engine)) == (NOTHING, [], {})


# --- leases


def test_ids_are_given_back_when_nothing_is_left_and_leased_again(engine: Engine) -> None:
    for name in ("first", "second"):
        run(engine, "-v", "cache:/v", "--build-user", name, "--", "true")
    assert leases(engine) == {"first": 0, "second": 1}
    gc(engine, "--high", "100")
    assert leases(engine) == {"first": 0, "second": 1}
    with running(engine, "--build-user", "second", "--", "true"):
        gc(engine, *ALL)
        assert leases(engine) == {"second": 1}
    run(engine, "--build-user", "third", "--", "true")
    assert leases(engine) == {"second": 1, "third": 0}


def lease_all(engine: Engine) -> int:
    """Lease every slice to somebody who owns nothing."""
    count = len(build_users.available(accounts.current()))
    run(engine, "--", "true")
    (engine.state / "build-users.json").write_text(json.dumps({f"idle{number}": number for number in range(count)}))
    return count


def test_job_for_which_no_ids_are_free_gets_those_that_nobody_needs(engine: Engine) -> None:
    count = lease_all(engine)
    for number in range(count):
        (engine.state / f"volumes/idle{number}/0/named-cache").mkdir(parents=True)
    told = engine.run("run", "--", "true")
    assert (told.code, f"all {count} are leased" in told.err) == (125, True)
    (engine.state / "volumes/idle5/0/named-cache").rmdir()
    run(engine, "--", "true")
    assert leases(engine)["local"] == 5
    assert len(leases(engine)) == count


def test_names_in_brackets_keep_their_ids(engine: Engine) -> None:
    count = lease_all(engine)
    (engine.state / "build-users.json").write_text(json.dumps({f"({number})": number for number in range(count)}))
    assert engine.run("run", "--", "true").code == 125
    gc(engine, *ALL)
    assert len(leases(engine)) == count


# --- from prepare


def test_prepare_on_a_full_disk_starts_a_collector_and_does_not_wait_for_it(gitlab: GitLab) -> None:
    engine = gitlab.engine
    run(engine, "-v", "old:/v", "--build-user", "old", "--", "true")
    (engine.state / "blobs/sha256" / ("a" * 64)).write_bytes(bytes(1000))
    gitlab.configure(gc={"high": 0, "low": 0})
    with Holder(engine.state / "images.lock"), gitlab.prepared(job()) as attempt:  # comes to its end, though the collector cannot
        assert output(attempt, "echo works").strip() == "works"
        assert wait_until(lambda: locks.is_held(str(engine.state / "gc.lock")))
        assert volumes(engine)[-1].startswith("old/")
    assert wait_until(lambda: not volumes(engine) or not volumes(engine)[-1].startswith("old/"))
    assert wait_until(lambda: not locks.is_held(str(engine.state / "gc.lock")))
    words = (engine.state / "gc.log").read_text()
    assert "the disk is fuller than 0 %" in words and "removed volume old/0/named-old" in words and "freed" in words.splitlines()[-1]
    assert "removed" not in text_of(attempt)


def test_prepare_does_not_start_collectors_one_after_another(gitlab: GitLab) -> None:
    gitlab.configure(gc={"high": 0, "low": 0})
    log = gitlab.engine.state / "gc.log"
    with gitlab.prepared(job()):
        assert wait_until(lambda: log.exists() and "freed" in log.read_text())
    first = log.stat().st_mtime_ns
    with gitlab.prepared(job()):
        assert log.stat().st_mtime_ns == first
    os.utime(log, (time.time() - 301,) * 2)
    with gitlab.prepared(job()):
        assert wait_until(lambda: log.stat().st_mtime > time.time() - 300 and "freed" in log.read_text())


def test_prepare_on_a_roomy_disk_starts_none(gitlab: GitLab) -> None:
    with gitlab.prepared(job()):
        pass
    assert not (gitlab.engine.state / "gc.log").exists()


@pytest.mark.parametrize("argument", ["-1", "101", "x"])
def test_marks_are_percents(engine: Engine, argument: str) -> None:
    told = engine.run("gc", "--high", argument)
    assert told.code == 1 and "--high" in told.err and "(" in told.err
