"""The reaper: what a crash left goes, what lives or is being made stays, and one bad job does not save the others."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import paths
from runner.job import gc, state
from runner.job.keeper import Keeper
from runner.job.state import JobState
from runner.kernel import accounts, boot, process, userns
from runner.model import BuildUser
from runner.sandbox import build_users
from tests.support import stores
from tests.support.defences import attack, without
from tests.support.locks import Holder


class Jobs:
    """A store with jobs of all kinds in it."""

    def __init__(self, root: Path) -> None:
        self.store = stores.make(root)
        self.account = accounts.current()
        self.user = BuildUser("u", 0, *build_users.available(self.account)[0])

    def add(self, key: str, of: Keeper = state.NO_KEEPER) -> None:
        os.makedirs(f"{self.store.job(key)}/containers/build/upper")
        Path(self.store.job_lock(key)).touch()
        state.save(self.store, JobState(key, self.user, 0, None, of, {}, {}, "", 0.0))

    def fill(self, key: str) -> None:
        """Let the build user own something that nobody else may enter, as a container does."""
        directory = f"{self.store.job(key)}/containers/build/upper/private"
        upper = os.open(os.path.dirname(directory), os.O_RDONLY)

        def write() -> None:
            os.mkdir("private", 0o700, dir_fd=upper)
            os.mkdir("private/deep", dir_fd=upper)
            os.chown("private/deep", 5, 5, dir_fd=upper)
            os.chown("private", 5, 5, dir_fd=upper)

        userns.call(self.user.keeper_map(self.account), write)
        os.close(upper)

    def reap(self, *, but: str = "") -> list[str]:
        return gc.reap(self.store, self.account, but=but)

    def left(self) -> list[str]:
        return sorted(os.listdir(self.store.jobs))


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "state")


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield program
    program.kill()
    program.communicate()


def keeper_of(program: "subprocess.Popen[bytes]") -> Keeper:
    return Keeper(program.pid, process.start_time(program.pid), boot.boot_id())


def test_a_job_whose_keeper_is_dead_goes_with_everything(jobs: Jobs) -> None:
    jobs.add("dead")
    jobs.fill("dead")
    assert jobs.reap() == ["dead"]
    assert jobs.left() == []
    assert jobs.reap() == []


def test_a_job_whose_keeper_lives_stays(jobs: Jobs, sleeper: "subprocess.Popen[bytes]") -> None:
    jobs.add("alive", keeper_of(sleeper))
    assert jobs.reap() == []
    assert sleeper.poll() is None
    assert state.load(jobs.store, "alive")


def test_a_job_goes_as_soon_as_its_keeper_has_died(jobs: Jobs, sleeper: "subprocess.Popen[bytes]") -> None:
    jobs.add("dying", keeper_of(sleeper))
    sleeper.kill()
    sleeper.communicate()
    assert jobs.reap() == ["dying"]


@attack(
    54,
    without("runner/kernel/process.py", "return int(fields[19]) == started and fields[0]", "return fields[0]"),
)
def test_a_process_with_a_dead_keepers_number_is_not_hurt(jobs: Jobs, sleeper: "subprocess.Popen[bytes]") -> None:
    jobs.add("dead", keeper_of(sleeper)._replace(started=1))
    assert jobs.reap() == ["dead"]
    assert sleeper.poll() is None


@attack(
    54,
    without(
        "runner/job/keeper.py",
        "return self.boot_id == boot.boot_id() and process.is_alive(self.pid, self.started)",
        "return process.is_alive(self.pid, self.started)",
    ),
)
def test_a_job_of_before_the_reboot_goes(jobs: Jobs, sleeper: "subprocess.Popen[bytes]") -> None:
    jobs.add("old", keeper_of(sleeper)._replace(boot_id="another boot"))
    assert jobs.reap() == ["old"]
    assert sleeper.poll() is None


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_a_job_that_somebody_is_at_stays(jobs: Jobs, kind: str) -> None:
    jobs.add("busy")
    with Holder(Path(jobs.store.job_lock("busy")), kind):
        assert jobs.reap() == []
    assert jobs.reap() == ["busy"]


def test_the_job_that_the_caller_makes_stays(jobs: Jobs) -> None:
    jobs.add("mine")
    jobs.add("dead")
    assert jobs.reap(but="mine") == ["dead"]
    assert jobs.left() == ["mine", "mine.lock"]


def test_a_job_that_was_only_begun_goes(jobs: Jobs) -> None:
    os.mkdir(jobs.store.job("begun"))
    assert jobs.reap() == ["begun"]
    assert jobs.left() == []


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": 99}'])
def test_a_job_whose_record_cannot_be_read_goes_with_everything(jobs: Jobs, text: str) -> None:
    jobs.add("a")
    jobs.fill("a")
    Path(jobs.store.job_state("a")).write_text(text)
    assert jobs.reap() == ["a"]
    assert jobs.left() == []


def test_the_lock_of_a_job_that_was_never_begun_goes(jobs: Jobs) -> None:
    Path(jobs.store.job_lock("never")).touch()
    Path(jobs.store.job_lock("taken")).touch()
    with Holder(Path(jobs.store.job_lock("taken"))):
        assert jobs.reap() == []
        assert jobs.left() == ["taken.lock"]


def test_what_is_no_job_is_left_alone_and_keeps_nothing_from_going(jobs: Jobs) -> None:
    jobs.add("dead")
    os.mkdir(f"{jobs.store.jobs}/not a job")
    Path(f"{jobs.store.jobs}/notes~").touch()
    Path(f"{jobs.store.jobs}/-.lock").touch()
    assert jobs.reap() == ["dead"]
    assert jobs.left() == ["-.lock", "not a job", "notes~"]


def test_a_lock_that_cannot_be_taken_is_a_warning(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.add("odd")
    os.remove(jobs.store.job_lock("odd"))
    os.symlink("/nowhere", jobs.store.job_lock("odd"))
    jobs.add("dead")
    assert jobs.reap() == ["dead"]
    assert "leftovers of job odd stay" in capsys.readouterr().err


def test_a_store_without_jobs_is_fine(tmp_path: Path) -> None:
    assert gc.reap(paths.Store(str(tmp_path / "none")), accounts.current()) == []


def test_no_descriptor_stays_open(jobs: Jobs) -> None:
    before = len(os.listdir("/proc/self/fd"))
    jobs.add("dead")
    jobs.add("other")
    jobs.reap(but="other")
    assert len(os.listdir("/proc/self/fd")) == before
