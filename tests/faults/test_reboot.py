"""A machine that went down under its jobs, and came up with what they had on the disk; pids that somebody else has by then."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.kernel import process
from tests.support import census, faults
from tests.support.defences import attack, without
from tests.support.engine import processes_of, wait_until
from tests.support.gitlab_jobs import GitLab, job, output
from tests.support.images import build_image, busybox_layer, file, write_oci_layout

_SERVICE = {"name": "toolbox", "command": ["sleep", "4712"]}


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process of the account that has nothing to do with any job."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        yield program
        program.kill()


@pytest.fixture
def image(gitlab: GitLab, tmp_path: Path) -> str:
    gitlab.configure(gitlab={"wait_for_services_timeout": -1})
    write_oci_layout(tmp_path / "layout", build_image([busybox_layer(), [file("hello", b"hi\n")]]))
    return f"oci:{tmp_path}/layout"


def crash(gitlab: GitLab, image: str, **found: Any) -> None:
    """Have a job that writes, and the machine go down under it; its record names a keeper as `found` by who comes next."""
    attempt = gitlab.replay(job(image=image, services=[_SERVICE])).attempt()
    assert attempt.prepare().failure is None
    output(attempt, "mkdir -m 700 /etc/private; touch /etc/private/file; chown -R 5:5 /etc/private")
    (record,) = gitlab.engine.state.glob("jobs/*/state.json")
    written = json.loads(record.read_text())
    pid, started, boot_id = written["keeper"]
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: processes_of(gitlab.engine.state) == [])
    keeper = {"pid": pid, "started": started, "boot_id": boot_id, **found}
    record.write_text(json.dumps({**written, "keeper": list(keeper.values())}))


def reboot(gitlab: GitLab) -> None:
    """Have another boot than the one in which the layers were unpacked, and lose what had not been flushed of them."""
    for seal in gitlab.engine.state.glob("layers/*/*.seal"):
        seal.write_text(seal.read_text().replace(seal.read_text().split()[0], "another-boot"))


@attack(
    54,
    without(
        "runner/job/keeper.py", "return self.boot_id == boot.boot_id() and process.is_alive(self.pid, self.started)",
        "return process.is_alive(self.pid, self.started)",
    ),
    without("runner/image/layer_names.py", "return is_same and (until == _SETTLED or until == boot.boot_id().encode())", "return is_same"),
)  # fmt: skip
def test_what_a_reboot_left_goes_with_the_next_job(gitlab: GitLab, image: str, stranger: "subprocess.Popen[bytes]") -> None:
    assert gitlab.play(job(image=image)).status == "success"
    gitlab.engine.run("gc")
    before = census.take(gitlab.engine)
    layers = {path.name: path.stat().st_ino for path in gitlab.engine.state.glob("layers/*/*/")}
    # the same pid and start time, counted from another boot
    crash(gitlab, image, pid=stranger.pid, started=process.start_time(stranger.pid), boot_id="another-boot")
    reboot(gitlab)
    assert gitlab.play(job("cat /hello", image=image)).status == "success"
    assert stranger.poll() is None
    gitlab.engine.run("gc")
    assert before.differences(census.take(gitlab.engine)) == []
    # what was not settled before the power went was unpacked again
    again = {path.name: path.stat().st_ino for path in gitlab.engine.state.glob("layers/*/*/")}
    assert again.keys() == layers.keys()
    assert all(again[name] != layers[name] for name in layers)


@attack(54, without("runner/kernel/process.py", "return int(fields[19]) == started and fields[0]", "return fields[0]"))
def test_process_that_has_a_dead_keepers_pid_is_no_keeper(gitlab: GitLab, stranger: "subprocess.Popen[bytes]") -> None:
    crash(gitlab, "toolbox", pid=stranger.pid)
    assert gitlab.play(job()).status == "success"
    assert stranger.poll() is None
    assert faults.half_written(gitlab.engine) == []
