"""Layers that attack: whatever a member says, nothing outside of the layer's own directory changes, and every bound holds."""

import os
import random
import tarfile
from pathlib import Path

import pytest

from runner.errors import InfraError, RunnerError, UserError
from runner.image.bounds import Bounds
from runner.kernel import files
from tests.support import archives, images, trees
from tests.support.defences import attack, without
from tests.support.images import TarEntry, directory, file, hardlink, symlink
from tests.support.trees import Tree

OPQ = ".wh..wh..opq"
UP = "../" * 40
UNPACK, ATTRIBUTES, TAR = "runner/image/unpack.py", "runner/image/attributes.py", "runner/image/tar.py"
WAY = "_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV"
ANYWHERE = "_RESOLVE = 0"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "layer"


def state(probe: Path) -> Tree:
    return trees.scan(probe, first_id=0)


def attempt(target: Path, *layers: list[TarEntry]) -> Tree:
    """Unpack layers into one directory, as an attack across layers would need it; return what is there. A refusal is fine."""
    return attempt_raw(target, *map(images.tar, layers))


def attempt_raw(target: Path, *layers: bytes) -> Tree:
    root = target.with_name("all")
    for number, raw in enumerate(layers):
        try:
            trees.unpack_tar(raw, target.with_name(f"layer{number}"))
        except UserError as e:
            assert e.hint
    merged = trees.stacked([target.with_name(f"layer{number}") for number in reversed(range(len(layers)))], root)
    assert all(not path.startswith("..") for path in merged)
    return merged


# --- D4 1: names


@pytest.mark.parametrize(
    "name", ["../../x", "{probe}/file", "a/../../x", "..", "a/..", UP + "{probe}/file", "/..//../{probe}/file", "./../x"]
)
def test_no_name_leads_outside(target: Path, probe: Path, name: str) -> None:
    before = state(probe)
    attempt(target, [file(name.format(probe=probe), b"evil", mode=0o777)])
    assert state(probe) == before
    assert sorted(os.listdir(target.parent)) == ["all", "layer0"]


@attack(
    1, without(UNPACK, 'parts = [part for part in member.path.split(b"/") if part not in (b"", b".")]', 'parts = member.path.split(b"/")')
)
@pytest.mark.parametrize("name", ["a//b", "a/b/", "./a/./b", "/a/b", "//a//b//"])
def test_odd_spellings_are_the_plain_path(target: Path, name: str) -> None:
    assert set(attempt(target, [directory(name)])) == {"", "a", "a/b"}


@attack(1, without(UNPACK, 'if member.kind != "directory":', "if False:"), more=(2,))
@pytest.mark.parametrize("name", ["", ".", "/", "./", "//.//"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_root_is_a_directory_whatever_a_member_says(target: Path, probe: Path, name: str, kind: bytes) -> None:
    raw = archives.extended(archives.record(b"path", name.encode())) if name else b""
    raw += archives.header(name.encode(), kind=kind, link=os.fsencode(probe)) + archives.END
    with pytest.raises(UserError, match="its root is a"):
        trees.unpack_tar(raw, target)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"-rf", b"n" * 255, b"\x1b[31m", b" "])
def test_names_of_any_bytes_are_kept(target: Path, name: bytes) -> None:
    trees.unpack_tar(archives.extended(archives.record(b"path", name)) + archives.header() + archives.END, target)
    assert trees.in_keeper(lambda: [entry.hex() for entry in os.listdir(os.fsencode(target))]) == [name.hex()]


@attack(11, without("runner/image/bounds.py", 'return "".join(c if c.isprintable()', 'return text or "".join(c if c.isprintable()'))
@pytest.mark.parametrize("name", [b"n" * 256, b"d/" * 10_000 + b"f"])
def test_name_that_no_file_system_takes_is_refused_without_control_characters(target: Path, name: bytes) -> None:
    raw = archives.extended(archives.record(b"path", b"\x1b\n" + name)) + archives.header() + archives.END
    with pytest.raises(UserError, match="File name too long") as caught:
        trees.unpack_tar(raw, target)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 2000


# --- D4 2, 3, 5: links on the way


@attack(2, without(UNPACK, WAY, ANYWHERE))
@pytest.mark.parametrize(
    "link", ["{probe}", UP + "{probe}", "chain", "..", "../..", "/", ".", "/proc/self/root{probe}", "/proc/self/cwd", "/proc/1/root{probe}"]
)
@pytest.mark.parametrize("spelling", ["link", "/./link", "d/link"])
def test_writing_through_a_link_stays_inside(target: Path, probe: Path, link: str, spelling: str) -> None:
    before = state(probe)
    there = [symlink("chain", str(probe)), directory("d"), symlink(spelling, link.format(probe=probe))]
    through = [
        file(f"{spelling}/file", b"evil"), directory(f"{spelling}/sub", mode=0o700, uid=5), file(f"{spelling}/sub/new", b"evil"),
        symlink(f"{spelling}/planted", "x"), hardlink(f"{spelling}/linked", "chain"), TarEntry(f"{spelling}/pipe", tarfile.FIFOTYPE),
        file(f"{spelling}/.wh.file"), file(f"{spelling}/{OPQ}"), file(f"{spelling}{probe}/file", b"evil"), directory(spelling, mode=0o700),
    ]  # fmt: skip
    attempt(target, *([*there, member] for member in through))
    assert state(probe) == before


def test_link_of_a_lower_layer_is_not_followed_by_an_upper_one(target: Path, probe: Path) -> None:
    before = state(probe)
    lower = [symlink("etc", str(probe))]
    upper = [file("etc/file", b"evil"), directory("etc/sub", mode=0o700, uid=3), file("etc/.wh.file"), file(f"etc/{OPQ}")]
    found = attempt(target, lower, upper)
    assert found["etc"].kind == "directory"
    assert state(probe) == before


@attack(5, without(UNPACK, WAY, ANYWHERE))
def test_directory_and_link_take_turns_within_one_layer(target: Path, probe: Path) -> None:
    before = state(probe)
    turn = [directory("x"), file("x/file", b"1"), symlink("x", str(probe)), file("x/file", b"evil"), directory("x", mode=0o700)]
    found = attempt(target, [*turn, *turn, *turn, file("x/last")])
    assert found["x"].kind == "directory"
    assert state(probe) == before


@attack(5, without(UNPACK, WAY, ANYWHERE))
def test_link_behind_the_last_parent_is_seen_when_it_changes(target: Path, probe: Path) -> None:
    entries = [directory("a"), symlink("a/l", "."), file("a/l/one"), symlink("a/l/l", str(probe)), file("a/l/file", b"evil")]
    before = state(probe)
    attempt(target, entries)
    assert state(probe) == before


# --- D4 4: hard links


@attack(4, without(UNPACK, WAY, ANYWHERE), without(UNPACK, 'if not there or b".." in there:', "if not there:", UNPACK, WAY, ANYWHERE))
@pytest.mark.parametrize(
    "there", ["{probe}/file", UP + "{probe}/file", "../file", "out/file", "out/../file", "/proc/self/root{probe}/file", "self/file"]
)
def test_hard_link_reaches_nothing_outside(target: Path, probe: Path, there: str) -> None:
    before = state(probe)
    links = [symlink("out", str(probe)), symlink("self", "/proc/self/cwd")]
    with pytest.raises(UserError, match="hard link"):
        trees.unpack_tar(images.tar([*links, hardlink("h", there.format(probe=probe)), file("h", b"evil")]), target)
    assert state(probe) == before


def test_hard_link_to_a_link_gives_no_way_to_what_it_names(target: Path, probe: Path) -> None:
    before = state(probe)
    attempt(
        target,
        [symlink("l", f"{probe}/file"), TarEntry("h", tarfile.LNKTYPE, link="l", mode=0o4777, uid=5), file("h", b"evil", mode=0o600)],
    )
    assert state(probe) == before


# --- D4 6: whiteouts


@attack(6, without(UNPACK, WAY, ANYWHERE))
@pytest.mark.parametrize("name", ["out/.wh.file", "out/.wh.sub", f"out/{OPQ}", ".wh.out/file", ".wh...", ".wh..", f"out/sub/{OPQ}"])
def test_whiteout_through_a_link_hides_nothing_of_the_host(target: Path, probe: Path, name: str) -> None:
    before = state(probe)
    attempt(target, [symlink("out", str(probe)), file(name)])
    assert state(probe) == before


@attack(6, without(ATTRIBUTES, '(not name.startswith("user.") or name.startswith("user.overlay."))', 'not name.startswith("user.")'))
def test_image_cannot_order_overlayfs_about(target: Path) -> None:
    orders = {"opaque": "y", "redirect": "/secret", "metacopy": "", "origin": "x", "whiteout": "y", "xwhiteouts": "y"}
    pax = {f"SCHILY.xattr.{space}.overlay.{name}": value for space in ("user", "trusted") for name, value in orders.items()}
    lower = [directory("d"), file("d/kept", b"1"), file("secret", b"2")]
    found = attempt(target, lower, [TarEntry("d", tarfile.DIRTYPE, mode=0o755, pax=pax), TarEntry("zero", tarfile.CHRTYPE, pax=pax)])
    assert set(found) == {"", "d", "d/kept", "secret"}


# --- D4 8: setuid


def test_no_file_is_setuid_for_an_id_of_the_host(target: Path) -> None:
    trees.unpack_tar(images.tar([file(f"su{uid}", mode=0o6777, uid=uid, gid=uid) for uid in (0, 1, 999, 65535)]), target)
    user = trees.first_user()
    names = [target / f"su{uid}" for uid in (0, 1, 999, 65535)]
    owners = trees.in_keeper(lambda: [[name.stat().st_uid, name.stat().st_gid] for name in names])
    assert all(user.uid_start <= trees.keeper().uids[1].outside + uid - 1 < user.uid_start + 65536 for uid, _ in owners)
    assert all(user.gid_start <= trees.keeper().gids[1].outside + gid - 1 < user.gid_start + 65536 for _, gid in owners)


# --- D4 9: directories that every container needs


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "run", "tmp", "etc"])
def test_special_directory_as_a_link_stays_a_link_and_harms_nobody(target: Path, probe: Path, name: str) -> None:
    before = state(probe)
    assert attempt(target, [symlink(name, str(probe))])[name].text == str(probe)
    assert state(probe) == before


# --- D4 10, 11: bounds


def refused(target: Path, raw: bytes, limits: Bounds, kind: type[RunnerError] = UserError) -> str:
    with pytest.raises(kind) as caught:
        trees.unpack_tar(raw, target, limits=limits)
    return caught.value.message


def test_content_is_bounded(target: Path) -> None:
    raw = images.tar([file(str(number), bytes(1000)) for number in range(20)])
    assert "more than 10000 bytes" in refused(target, raw, Bounds(total_bytes=10_000))
    assert trees.in_keeper(lambda: files.disk_usage(str(target))) < 100_000


def test_bomb_stops_at_the_bound_and_not_at_its_own_end(target: Path) -> None:
    raw = archives.header(size=archives.base256(2**60)) + bytes(1024**2)
    assert "more than 100000 bytes" in refused(target, raw, Bounds(total_bytes=100_000))


@pytest.mark.parametrize("entries", [[file(str(number)) for number in range(101)], [file("a/" * 101 + "f")], [file("same")] * 101])
def test_members_are_bounded_with_the_directories_that_they_need(target: Path, entries: list[TarEntry]) -> None:
    assert "more than 100 members" in refused(target, images.tar(entries), Bounds(members=100))


@pytest.mark.parametrize(
    "entries",
    [
        [directory(f"{number:0200}") for number in range(30)],
        [file(f".wh.{number:0200}") for number in range(30)],
        [file(f"{number:0200}/f") for number in range(30)],
    ],
)
def test_names_that_stay_in_memory_are_bounded(target: Path, entries: list[TarEntry]) -> None:
    assert "names of directories" in refused(target, images.tar(entries), Bounds(names_bytes=10_000))


def test_attributes_count_as_content(target: Path) -> None:
    raw = images.tar([TarEntry(str(number), pax={"SCHILY.xattr.user.x": "v" * 1000}) for number in range(20)])
    assert "more than 10000 bytes" in refused(target, raw, Bounds(total_bytes=10_000))


@pytest.mark.parametrize(
    "entries", [[file("big", bytes(70 * 1024**2))], [directory(f"{number}") for number in range(17_000)]], ids=["content", "directories"]
)
def test_reserve_of_the_disk_is_left_alone(target: Path, entries: list[TarEntry]) -> None:
    assert "No space left" in refused(target, images.tar(entries), Bounds(reserve_bytes=2**60), InfraError)


@pytest.mark.parametrize("extent", [b"0,0", b"9223372036854775800,0"])
def test_sparse_file_of_eight_exbibytes_is_refused(target: Path, extent: bytes) -> None:
    raw = archives.extended(archives.record(b"GNU.sparse.size", b"9223372036854775807"), archives.record(b"GNU.sparse.map", extent))
    assert "cannot be unpacked" in refused(target, raw + archives.header() + archives.END, Bounds())


def test_many_small_files_and_directories_without_description_take_no_more_than_linear_time(target: Path) -> None:
    entries = [file(f"d{number}/f") for number in range(20_000)] + [directory(f"d{number}") for number in reversed(range(20_000))]
    assert trees.unpack_tar(images.tar(entries), target) == []


# --- D4 12: ids


@attack(12, without(ATTRIBUTES, "if member.uid > 65535 or member.gid > 65535:", "if False:"))
@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("number", [65536, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_id_that_no_container_has_is_refused(target: Path, field: str, number: int, kind: bytes) -> None:
    entry = TarEntry("f", kind, link="x", uid=number if field == "uid" else 0, gid=number if field == "gid" else 0)
    assert f"{number}" in refused(target, images.tar([entry]), Bounds())


@attack(12, without(TAR, "if not 0 <= value < 2**63:", "if False:"))
def test_negative_id_is_refused(target: Path) -> None:
    raw = archives.header(uid=archives.base256(-1, 8)) + archives.END
    assert "uid -1" in refused(target, raw, Bounds())


# --- D4 13: damage


def test_random_changes_of_a_layer_end_in_a_tree_or_a_sentence(tmp_path: Path, probe: Path) -> None:
    before = state(probe)
    source = random.Random(13)
    entries = [directory("d"), file("d/f", b"x" * 600), symlink("l", str(probe)), hardlink("h", "d/f"), file(".wh.w"), file("l/y")]
    raw = images.tar(entries)
    for number in range(60):
        changed = bytearray(raw)
        start = source.randrange(0, len(raw) // 512) * 512
        changed[start + source.randrange(160)] = source.randrange(256)
        changed[start : start + 512] = archives.with_checksum(bytes(changed[start : start + 512]))
        try:
            trees.unpack_tar(bytes(changed), tmp_path / str(number))
        except UserError as e:
            assert e.hint
    assert state(probe) == before
