"""Locks between processes, and the ways in which they must not fail."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.kernel import locks
from tests.support.locks import PROGRAM, Holder


def test_another_process_cannot_take_what_one_holds(tmp_path: Path) -> None:
    with Holder(tmp_path / "lock"):
        assert locks.try_take(str(tmp_path / "lock")) is None
    fd = locks.try_take(str(tmp_path / "lock"))
    assert fd is not None
    os.close(fd)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with Holder(tmp_path / "lock") as holder:
        holder.process.kill()
        with locks.hold(str(tmp_path / "lock"), timeout_s=10):
            pass


def test_shared_locks_go_together_and_exclude_an_exclusive_one(tmp_path: Path) -> None:
    with Holder(tmp_path / "lock", "shared"):
        fd = locks.try_take(str(tmp_path / "lock"), shared=True)
        assert fd is not None
        os.close(fd)
        assert locks.try_take(str(tmp_path / "lock")) is None


def test_one_process_excludes_itself_through_another_descriptor(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "lock")):
        assert locks.try_take(str(tmp_path / "lock")) is None


def test_closing_another_descriptor_of_the_file_does_not_unlock(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "lock")):
        (tmp_path / "lock").read_bytes()  # this is what would drop a POSIX lock
        assert locks.try_take(str(tmp_path / "lock")) is None


def test_waiting_ends_at_the_deadline(tmp_path: Path) -> None:
    with Holder(tmp_path / "lock"):
        began = time.monotonic()
        with pytest.raises(BlockingIOError), locks.hold(str(tmp_path / "lock"), timeout_s=0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 5


def test_a_child_that_inherited_the_descriptor_keeps_the_lock(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "lock")) as fd:
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[fd])
    assert locks.try_take(str(tmp_path / "lock")) is None
    child.communicate()
    taken = locks.try_take(str(tmp_path / "lock"))
    assert taken is not None
    os.close(taken)


def test_the_descriptor_is_not_inherited_by_programs(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "lock")) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_waiter_locks_the_file_that_is_there_now_and_not_the_removed_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = Holder(path)
    waiter = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), "exclusive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.3)  # let it begin to wait; too short a time makes the test weaker, never wrong
    path.unlink()
    with holder:
        pass
    assert waiter.stdout
    assert waiter.stdout.readline() == "held\n"
    assert locks.try_take(str(path)) is None
    waiter.communicate()


def test_a_lock_file_is_for_the_account_only_and_no_link_is_followed(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "lock")):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to("lock")
    with pytest.raises(OSError, match="symbolic links"):
        locks.try_take(str(tmp_path / "link"))


def test_a_missing_directory_is_an_error_and_leaks_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        locks.try_take(str(tmp_path / "gone/lock"))
    with locks.hold(str(tmp_path / "lock")):
        locks.try_take(str(tmp_path / "lock"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_looking_whether_a_lock_is_held_takes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not locks.is_held(path)
    assert os.listdir(tmp_path) == []
    with Holder(Path(path)):
        assert locks.is_held(path)
        assert locks.is_held(path, shared=True)
    with Holder(Path(path), "shared"):
        assert locks.is_held(path)
        assert not locks.is_held(path, shared=True)
    assert not locks.is_held(path)


def test_a_file_that_is_not_there_is_not_made_to_be_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    assert locks.take_existing(path, shared=True, wait=True) is None
    Path(path).touch()
    with Holder(Path(path), "shared"):
        assert locks.take_existing(path, shared=False, wait=False) is None
        fd = locks.take_existing(path, shared=True, wait=False)
        assert fd is not None
        os.close(fd)
