"""Files that appear whole, and trees that are measured and removed without following anything."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.kernel import files


def test_write_atomic_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    files.write_atomic(str(target), b"old")
    files.write_atomic(str(target), b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomic_gives_exactly_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        files.write_atomic(str(tmp_path / "file"), b"", mode=0o664)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o664


def test_write_atomic_into_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.write_atomic("file", b"here")
    assert (tmp_path / "file").read_bytes() == b"here"


def test_failed_write_keeps_the_old_file_and_removes_its_own(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(str(tmp_path / "target"), b"x")
    assert os.listdir(tmp_path) == ["target"]


def test_write_atomic_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"untouched")
    (tmp_path / "link").symlink_to("probe")
    files.write_atomic(str(tmp_path / "link"), b"new")
    assert (tmp_path / "probe").read_bytes() == b"untouched"
    assert not (tmp_path / "link").is_symlink()


def test_readers_never_see_a_part_of_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    versions = [bytes([letter]) * 100_000 for letter in b"ab"]
    files.write_atomic(path, versions[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            files.write_atomic(path, versions[number % 2], durable=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert files.read(path) in versions
    writer.join()


def test_json_comes_back_and_is_for_the_account_only(tmp_path: Path) -> None:
    path = str(tmp_path / "value.json")
    files.write_json(path, {"ü": [1, None]})
    assert files.read_json(path) == {"ü": [1, None]}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_read_accepts_a_file_of_exactly_the_limit_and_refuses_one_byte_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read(str(tmp_path / "file"), limit_bytes=5) == b"12345"
    with pytest.raises(OSError) as caught:
        files.read(str(tmp_path / "file"), limit_bytes=4)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.timeout(10)
def test_read_refuses_a_fifo_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        files.read(str(tmp_path / "fifo"))


def test_make_directory_gives_exactly_the_mode_and_leaves_an_old_one_alone(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        files.make_directory(str(tmp_path / "a"), mode=0o755)
    finally:
        os.umask(old)
    files.make_directory(str(tmp_path / "a"), mode=0o700)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755


def test_remove_tree_removes_every_kind_of_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/file").write_bytes(b"x")
    (tree / "a/b/link").symlink_to("../file")
    (tree / "a/b/dangling").symlink_to("/nowhere")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
        files.remove_tree(str(tree))
    assert os.listdir(tmp_path) == []


def test_remove_tree_removes_a_single_file_and_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    (tmp_path / "link").symlink_to("probe")
    (tmp_path / "file").write_bytes(b"")
    files.remove_tree(str(tmp_path / "link"))
    files.remove_tree(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["probe"]


def test_remove_tree_accepts_a_trailing_slash_and_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("tree/", "tree"):
        (tmp_path / "tree/sub").mkdir(parents=True)
        files.remove_tree(path)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["gone", "gone/below", "file/below"])
def test_remove_tree_is_content_when_there_is_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    files.remove_tree(str(tmp_path / path))
    assert os.listdir(tmp_path) == ["file"]


def test_remove_tree_follows_no_link_out_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "probe/inner").mkdir(parents=True)
    (tmp_path / "probe").chmod(0o500)
    (tmp_path / "tree").mkdir()
    for name, target in (("absolute", str(tmp_path / "probe")), ("relative", "../probe"), ("up", "..")):
        (tmp_path / "tree" / name).symlink_to(target)
    files.remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == ["probe"]
    assert os.listdir(tmp_path / "probe") == ["inner"]
    assert stat.S_IMODE((tmp_path / "probe").stat().st_mode) == 0o500
    (tmp_path / "probe").chmod(0o700)


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o400, 0o500, 0o600])
def test_remove_tree_opens_up_directories_without_permissions(tmp_path: Path, mode: int) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/file").write_bytes(b"")
    for path in ("tree/a/b", "tree/a", "tree"):
        (tmp_path / path).chmod(mode)
    files.remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def nest(root: Path, depth: int) -> None:
    """Make a chain of directories that is far longer than any path may be."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_a_tree_deeper_than_paths_and_stacks_reach_is_measured_and_removed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    nest(tmp_path / "tree", 3000)
    assert files.disk_usage(str(tmp_path / "tree")) >= 0
    files.remove_tree(str(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_remove_tree_goes_on_past_an_error_and_names_what_stayed(tmp_path: Path) -> None:
    program = """
import os, sys
from runner.kernel import files, syscalls
os.chdir(sys.argv[1])
syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
syscalls.mount("probe", "tree/a/mounted", "", syscalls.MS_BIND)
try:
    files.remove_tree(sys.argv[1] + "/tree")
except OSError as e:
    print(e.strerror, e.filename)
"""
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe/precious").write_bytes(b"")
    for name in ("a/mounted", "a/other", "b", "z"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    (tmp_path / "tree/a/file").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"is a mount point {tmp_path}/tree/a/mounted\n"
    assert os.listdir(tmp_path / "probe") == ["precious"]
    assert os.listdir(tmp_path / "tree") == ["a"]
    assert os.listdir(tmp_path / "tree/a") == ["mounted"]


def test_remove_tree_that_may_not_touch_the_parent_says_permission_denied(tmp_path: Path) -> None:
    (tmp_path / "closed/tree/sub").mkdir(parents=True)
    (tmp_path / "closed/file").write_bytes(b"")
    (tmp_path / "closed").chmod(0o500)
    try:
        for name in ("tree", "file"):
            with pytest.raises(PermissionError, match=name):
                files.remove_tree(str(tmp_path / "closed" / name))
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_directory_that_is_moved_away_during_removal_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b").mkdir()
    walk = files.Walk(str(tmp_path / "tree"))
    for name in ("tree", "a", "b"):
        walk.enter(name, open_up=False)
    (tmp_path / "tree/a/b").rename(tmp_path / "elsewhere/b")
    with pytest.raises(OSError, match="moved away"):
        walk.leave()
    walk.close()


def test_disk_usage_counts_blocks_directories_and_a_hard_link_once(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "tree/sub/file", tmp_path / "tree/again")
    with (tmp_path / "tree/sparse").open("wb") as file:
        file.truncate(1024**3)
    expected = sum(os.lstat(tmp_path / name).st_blocks * 512 for name in ("tree", "tree/sub", "tree/sub/file", "tree/sparse"))
    assert files.disk_usage(str(tmp_path / "tree")) == expected
    assert expected < 1024**3


def test_disk_usage_follows_no_link_and_survives_what_it_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 1_000_000)
    (tmp_path / "tree/closed").mkdir(parents=True)
    (tmp_path / "tree/unsearchable").mkdir()
    (tmp_path / "tree/link").symlink_to("../big")
    (tmp_path / "tree/closed").chmod(0o000)
    (tmp_path / "tree/unsearchable").chmod(0o600)
    assert files.disk_usage(str(tmp_path / "tree")) < 100_000
    assert files.disk_usage(str(tmp_path / "gone")) == 0
    assert files.disk_usage(str(tmp_path / "big")) == os.lstat(tmp_path / "big").st_blocks * 512
