"""Stores on disk: made once, private, and never touched when they are somebody else's."""

import os
import stat
from multiprocessing import get_context
from pathlib import Path

import pytest

from runner import errors, layout, paths
from runner.kernel import accounts, userns
from runner.model import BuildUser
from runner.sandbox import build_users


def content(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_new_store_is_private_and_has_every_directory(tmp_path: Path) -> None:
    store = layout.open_store(str(tmp_path / "a/b/store"))
    assert Path(store.format).read_text() == f"{paths.FORMAT}\n"
    assert {stat.S_IMODE(os.stat(directory).st_mode) for directory in store.directories()} == {0o700}
    assert stat.S_IMODE(os.stat(store.format).st_mode) == 0o600
    assert content(Path(store.root)) == [
        "blobs",
        "blobs/partial",
        "blobs/sha256",
        "format",
        "images",
        "jobs",
        "layers",
        "seccomp",
        "volumes",
    ]


def test_new_store_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        store = layout.open_store(str(tmp_path / "store"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(directory).st_mode) for directory in store.directories()} == {0o700}


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    store = layout.open_store(str(tmp_path))
    Path(store.blob("sha256:" + "0" * 64)).write_bytes(b"kept")
    os.rmdir(store.seccomp)
    before = content(tmp_path)
    assert layout.open_store(str(tmp_path)).root == str(tmp_path)
    assert content(tmp_path) == before


def test_store_that_was_half_made_is_made_whole(tmp_path: Path) -> None:
    store = layout.open_store(str(tmp_path))
    before = content(tmp_path)
    os.unlink(store.format)
    os.rmdir(store.jobs)
    layout.open_store(str(tmp_path))
    assert content(tmp_path) == before


@pytest.mark.parametrize("found", ["0", "2", "99", "", "x", "1 2", "1" * 64])
def test_store_of_another_version_is_refused_and_left_alone(tmp_path: Path, found: str) -> None:
    (tmp_path / "format").write_text(found)
    with pytest.raises(errors.UserError, match=f"has format {found}, this version of dockless knows {paths.FORMAT}") as caught:
        layout.open_store(str(tmp_path))
    assert "--state-dir" in caught.value.hint
    assert content(tmp_path) == ["format"]


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"1\n" * 1000, b"1" * 65])
def test_format_that_is_no_number_is_refused_with_a_sentence(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "format").write_bytes(raw)
    with pytest.raises(errors.UserError):
        layout.open_store(str(tmp_path))
    assert content(tmp_path) == ["format"]


def test_store_that_is_closed_to_us_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0)
    with pytest.raises(errors.UserError, match="cannot be read: Permission denied") as caught:
        layout.open_store(str(tmp_path / "store"))
    (tmp_path / "store").chmod(0o700)
    assert "--state-dir" in caught.value.hint


@pytest.mark.parametrize("root", ["/proc/dockless", "/dev/null/store", "/etc/dockless-of-a-test/store"])
def test_store_that_cannot_be_made_is_refused_with_its_reason(root: str) -> None:
    with pytest.raises(errors.RunnerError, match=f"state directory {root} cannot be ") as caught:
        layout.open_store(root)
    assert "--state-dir" in caught.value.hint


def test_directory_of_another_account_is_no_place_for_a_store(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    foreign.chmod(0o777)
    account = accounts.current()
    id_map = BuildUser("test", 0, *build_users.available(account)[0]).keeper_map(account)
    userns.call(id_map, lambda: os.chown(foreign, 1, 1))
    with pytest.raises(errors.UserError, match="belongs to another account"):
        layout.open_store(str(foreign))
    assert content(tmp_path) == ["foreign"]


def test_store_is_made_by_several_at_once(tmp_path: Path) -> None:
    with get_context("fork").Pool(4) as pool:
        found = pool.map(_open, [str(tmp_path / "store")] * 40)
    assert set(found) == {str(tmp_path / "store")}
    assert [name for name in content(tmp_path / "store") if "format" in name] == ["format"]


def _open(root: str) -> str:
    return layout.open_store(root).root
