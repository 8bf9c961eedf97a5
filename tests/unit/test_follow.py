"""Logs of services in the job log: every line once, behind its prefix, from one verb to the next."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import paths
from runner.job.follow import follow
from tests.support import stores
from tests.support.engine import children, wait_until


class Job:
    """A job with the logs of its services, and a job log."""

    def __init__(self, root: Path) -> None:
        self.store = stores.make(root / "state")
        self.output = root / "output"
        os.makedirs(os.path.dirname(self.store.job_log("k", "x")))
        self._fd = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, name: str, data: bytes) -> None:
        with open(self.store.job_log("k", name), "ab") as file:
            file.write(data)

    def follow(self, *names: str, output: int | None = None) -> AbstractContextManager[None]:
        return follow(self.store, "k", names, prefix=lambda name: f"[{name}] ", output=self._fd if output is None else output)

    def shown(self) -> bytes:
        return self.output.read_bytes()

    def show(self, *names: str) -> bytes:
        """Follow for no time at all; return everything that was shown since the beginning."""
        with self.follow(*names):
            pass
        return self.shown()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_lines_of_before_and_of_meanwhile_are_shown_behind_their_prefix(job: Job) -> None:
    job.write("a", b"before\n")
    with job.follow("a"):
        job.write("a", b"meanwhile\n")
    assert job.shown() == b"[a] before\n[a] meanwhile\n"


def test_lines_are_shown_while_the_block_still_runs(job: Job) -> None:
    with job.follow("a"):
        job.write("a", b"now\n")
        assert wait_until(lambda: job.shown() == b"[a] now\n", 20)


def test_no_line_is_shown_twice_and_none_is_lost_between_two_verbs(job: Job) -> None:
    job.write("a", b"1\n2\n")
    job.show("a")
    job.write("a", b"3\n")
    assert job.show("a") == b"[a] 1\n[a] 2\n[a] 3\n"
    assert job.show("a") == b"[a] 1\n[a] 2\n[a] 3\n"


def test_the_end_of_a_line_is_waited_for_until_the_end(job: Job) -> None:
    job.write("a", b"whole\nhal")
    with job.follow("a"):
        assert wait_until(lambda: job.shown() == b"[a] whole\n", 20)
        job.write("a", b"f\n")
    job.write("a", b"rest")
    assert job.show("a") == b"[a] whole\n[a] half\n[a] rest\n"


def test_every_service_has_its_own_lines(job: Job) -> None:
    job.write("a", b"1\n2\n")
    job.write("b", b"3\n")
    assert sorted(job.show("a", "b").splitlines()) == [b"[a] 1", b"[a] 2", b"[b] 3"]


def test_empty_lines_are_lines(job: Job) -> None:
    job.write("a", b"\n\n1\n\n\n")
    assert job.show("a") == b"[a] \n[a] \n[a] 1\n[a] \n[a] \n"


def test_a_log_that_does_not_exist_yet_is_shown_when_it_does(job: Job) -> None:
    with job.follow("a", "never"):
        job.write("a", b"late\n")
    assert job.shown() == b"[a] late\n"


def test_a_line_without_end_is_shown_in_parts_and_not_collected(job: Job) -> None:
    job.write("a", b"x" * 3_000_000)
    with job.follow("a"):
        assert wait_until(lambda: len(job.shown()) >= 3_000_000, 20)
    assert job.shown().replace(b"[a] ", b"").replace(b"\n", b"") == b"x" * 3_000_000


def test_a_damaged_place_begins_anew(job: Job) -> None:
    job.write("a", b"1\n")
    Path(job.store.job_log("k", "a") + ".shown").write_text("nonsense")
    assert job.show("a") == b"[a] 1\n"


def test_without_services_there_is_no_process(job: Job) -> None:
    before = children()
    with job.follow():
        assert children() == before


def test_nothing_is_left_whatever_the_block_does(job: Job) -> None:
    before, others = len(os.listdir("/proc/self/fd")), children()
    job.write("a", b"1\n")
    with pytest.raises(RuntimeError, match="from inside"), job.follow("a"):
        raise RuntimeError("from inside")
    assert job.shown() == b"[a] 1\n"
    assert children() == others
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_that_has_gone_does_not_disturb_the_step(job: Job) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    job.write("a", b"1\n" * 100_000)
    with job.follow("a", output=write_end):
        job.write("a", b"2\n")
    os.close(write_end)


def test_a_job_that_was_ended_meanwhile_does_not_disturb_the_step(job: Job) -> None:
    job.write("a", b"1\n")
    with job.follow("a"):
        os.rename(job.store.jobs, job.store.jobs + ".gone")


@settings(max_examples=25)
@given(st.lists(st.text("a\n\té💡", max_size=6).map(str.encode), max_size=4))
def test_what_is_shown_without_prefixes_is_what_was_printed(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    job = Job(tmp_path_factory.mktemp("follow"))
    printed = b"".join(line + b"\n" for line in lines)
    job.write("x", printed)
    assert job.show("x") == b"".join(b"[x] " + line + b"\n" for line in printed.split(b"\n")[:-1])


def test_the_store_keeps_nothing_but_the_place(job: Job) -> None:
    job.write("a", b"1\n")
    job.show("a")
    directory = os.path.dirname(paths.Store(job.store.root).job_log("k", "a"))
    assert sorted(os.listdir(directory)) == ["a.log", "a.log.shown"]
