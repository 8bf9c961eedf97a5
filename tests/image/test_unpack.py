"""A layer becomes a directory with everything that its members say, owned by the slice, and whiteouts as overlayfs reads them."""

import struct
import tarfile
from pathlib import Path

import pytest

from runner.errors import UserError
from tests.support import archives, images, trees
from tests.support.images import TarEntry, directory, file, hardlink, symlink
from tests.support.trees import Node, Tree

OPAQUE = {"user.overlay.opaque": b"y".hex()}
MTIME_NS = 1_700_000_000 * 10**9
OPQ = ".wh..wh..opq"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "layer"


def unpacked(target: Path, *entries: TarEntry) -> Tree:
    trees.unpack_tar(images.tar(entries), target)
    return trees.look(target)


def refusal(target: Path, *entries: TarEntry) -> str:
    with pytest.raises(UserError) as caught:
        trees.unpack_tar(images.tar(entries), target)
    assert caught.value.hint
    return caught.value.message


# --- members


def test_file_has_content_owner_mode_and_time(target: Path) -> None:
    node = unpacked(target, file("a", b"content", mode=0o640, uid=7, gid=65535))["a"]
    assert node[:6] == Node("file", 0o640, 7, 65535, "content", MTIME_NS)[:6]


def test_files_belong_to_the_slice_and_to_nobody_else(target: Path) -> None:
    trees.unpack_tar(images.tar([file("a"), file("b", uid=65535, gid=65535)]), target)
    start = trees.first_user().uid_start
    owners = trees.in_keeper(lambda: [(target / name).stat().st_uid for name in ("a", "b")])
    outside = [trees.keeper().uids[1].outside + owner - 1 for owner in owners]
    assert outside == [start, start + 65535]


def test_bits_of_setuid_setgid_and_sticky_are_kept_and_mean_the_slice(target: Path) -> None:
    found = unpacked(
        target, file("su", mode=0o4755), file("sg", mode=0o2755, gid=42), directory("tmp", mode=0o1777), directory("g", mode=0o2775, gid=9)
    )
    assert [(found[name].mode, found[name].gid) for name in ("su", "sg", "tmp", "g")] == [
        (0o4755, 0),
        (0o2755, 42),
        (0o1777, 0),
        (0o2775, 9),
    ]


def test_no_permission_of_a_parent_keeps_its_content_out(target: Path) -> None:
    found = unpacked(target, directory("d", mode=0, uid=5, gid=5), file("d/f", b"x", mode=0, uid=6, gid=6))
    assert found["d"][:4] == ("directory", 0, 5, 5)
    assert found["d/f"][:5] == ("file", 0, 6, 6, "x")


def test_directory_keeps_its_time_though_files_follow(target: Path) -> None:
    found = unpacked(target, TarEntry("./", tarfile.DIRTYPE, mode=0o711, uid=1, gid=2, mtime=5), directory("d"), file("d/f"), file("z"))
    assert found["d"].mtime_ns == MTIME_NS
    assert found[""][:4] == ("directory", 0o711, 1, 2)
    assert found[""].mtime_ns == 5 * 10**9


@pytest.mark.parametrize("mtime", ["-1.5", "0", "1700000000.123456789", "4294967296.5"])
def test_times_of_every_kind_to_the_nanosecond(target: Path, mtime: str) -> None:
    kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "p": tarfile.FIFOTYPE}
    found = unpacked(target, *(TarEntry(name, kind, link="x", pax={"mtime": mtime}) for name, kind in kinds.items()))
    whole, _, fraction = mtime.removeprefix("-").partition(".")
    expected = int(whole) * 10**9 + int(fraction.ljust(9, "0") or 0)
    assert {found[name].mtime_ns for name in kinds} == {-expected if mtime.startswith("-") else expected}


@pytest.mark.parametrize("mtime", [2**90, -(2**90)])
def test_time_that_nothing_can_hold_is_cut(target: Path, mtime: int) -> None:
    trees.unpack_tar(archives.header(b"f", mtime=archives.base256(mtime)) + archives.END, target)
    assert abs(trees.look(target)["f"].mtime_ns) >= 2**31 * 10**9


def test_symlink_is_made_as_written(target: Path) -> None:
    found = unpacked(
        target, symlink("absolute", "/etc/passwd"), symlink("up", "../../.."), TarEntry("owned", tarfile.SYMTYPE, link="x", uid=3, gid=4)
    )
    assert [found[name].text for name in ("absolute", "up")] == ["/etc/passwd", "../../.."]
    assert found["owned"][2:4] == (3, 4)


def test_hard_links_are_one_file_whatever_they_say_themselves(target: Path) -> None:
    found = unpacked(
        target, file("d/a", b"x", mode=0o4711, uid=3), TarEntry("b", tarfile.LNKTYPE, link="./d//a", mode=0o777, uid=9), hardlink("c", "/b")
    )
    assert len({found[name].inode for name in ("d/a", "b", "c")}) == 1
    assert found["c"][:4] == ("file", 0o4711, 3, 0)


def test_hard_link_to_itself_changes_nothing(target: Path) -> None:
    assert unpacked(target, file("a", b"x"), hardlink("a", "a"))["a"].text == "x"


def test_hard_link_replaces_a_file_and_a_directory(target: Path) -> None:
    found = unpacked(target, file("a", b"x"), file("b", b"y"), file("d/e"), hardlink("b", "a"), hardlink("d", "a"))
    assert (found["b"].text, found["d"].text) == ("x", "x")


def test_hard_link_to_a_symlink_is_the_symlink(target: Path) -> None:
    found = unpacked(target, symlink("l", "/etc/passwd"), hardlink("h", "l"))
    assert found["h"][0] == "symlink"


@pytest.mark.parametrize("there", ["missing", "missing/file", "file/below", ".", "", "d", "whited"])
def test_hard_link_to_no_file_of_this_layer_is_refused(target: Path, there: str) -> None:
    words = refusal(target, file("file"), directory("d"), file(".wh.whited"), hardlink("h", there))
    assert "h" in words


def test_fifo_is_made_and_devices_are_passed_over(target: Path) -> None:
    found = unpacked(
        target, TarEntry("p", tarfile.FIFOTYPE, mode=0o622, uid=3), TarEntry("null", tarfile.CHRTYPE, device=(1, 3)),
        TarEntry("sda", tarfile.BLKTYPE, device=(8, 0)), TarEntry("zero", tarfile.CHRTYPE, device=(0, 0)),
    )  # fmt: skip
    assert set(found) == {"", "p"}
    assert found["p"][:3] == ("fifo", 0o622, 3)


def test_hard_link_to_a_device_is_passed_over_like_the_device(target: Path) -> None:
    found = unpacked(
        target, TarEntry("dev/null", tarfile.CHRTYPE, device=(1, 3)), hardlink("other", "dev/null"), hardlink("third", "./other")
    )
    assert set(found) == {"", "dev"}


def test_attributes_of_users_are_kept_and_orders_to_overlayfs_are_not(target: Path) -> None:
    names = [
        "user.mine",
        "user.overlay.opaque",
        "user.overlay.redirect",
        "trusted.overlay.opaque",
        "security.selinux",
        "system.posix_acl_access",
        "nonsense",
        "",
    ]
    pax = {f"SCHILY.xattr.{name}": "value" for name in names}
    found = unpacked(target, TarEntry("f", pax=pax), TarEntry("d", tarfile.DIRTYPE, pax=pax, mode=0o755))
    assert found["f"].xattrs == found["d"].xattrs == {"user.mine": b"value".hex()}


def test_file_capability_is_bound_to_the_slices_root(target: Path) -> None:
    version_2 = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0).decode("latin-1")
    pax = {"SCHILY.xattr.security.capability": version_2}
    value = bytes.fromhex(unpacked(target, TarEntry("ping", pax=pax, mode=0o755))["ping"].xattrs["security.capability"])
    # version 3 names the user id whose namespaces it counts in, here as the keeper sees it: 1 is the slice's first
    assert struct.unpack("<I", value[:4])[0] == 0x03000001
    assert struct.unpack("<I", value[20:])[0] == 1


def test_capability_that_makes_no_sense_is_left_out(target: Path) -> None:
    assert unpacked(target, TarEntry("f", pax={"SCHILY.xattr.security.capability": "x"}))["f"].xattrs == {}


def test_attribute_that_is_too_large_for_the_file_system_is_the_layers_fault(target: Path) -> None:
    assert "too large for the file system" in refusal(target, TarEntry("f", pax={"SCHILY.xattr.user.big": "x" * 65_000}))


def test_sparse_file_keeps_its_holes(target: Path) -> None:
    records = archives.extended(archives.record(b"GNU.sparse.size", b"1000000000"), archives.record(b"GNU.sparse.map", b"999999990,5"))
    trees.unpack_tar(records + archives.header(size=b"00000000005\0") + archives.padded(b"abcde") + archives.END, target)
    size, blocks = trees.in_keeper(lambda: [(target / "f").stat().st_size, (target / "f").stat().st_blocks])
    assert size == 10**9
    assert blocks < 100


def test_later_member_replaces_an_earlier_one_of_any_kind(target: Path) -> None:
    entries = [
        file("x", b"1"),
        directory("x"),
        file("x/y"),
        symlink("x", "y"),
        file("x", b"2"),
        symlink("x", "z"),
        directory("x"),
        file("x/z", b"3"),
    ]
    found = unpacked(target, *entries)
    assert set(found) == {"", "x", "x/z"}
    assert found["x/z"].text == "3"


# --- whiteouts


@pytest.mark.parametrize("name", ["gone", "d/gone", "./d//gone", "/d/gone"])
def test_whiteout_is_a_character_device(target: Path, name: str) -> None:
    head, _, tail = name.rpartition("/")
    found = unpacked(target, file(f"{head}/.wh.{tail}" if head else f".wh.{tail}"))
    assert [node.kind for path, node in found.items() if path.endswith("gone")] == ["whiteout"]


@pytest.mark.parametrize("entries", [[file("a", b"x"), file(".wh.a")], [file(".wh.a"), file("a", b"x")]])
def test_whiteout_never_removes_what_this_layer_wrote(target: Path, entries: list[TarEntry]) -> None:
    assert unpacked(target, *entries)["a"].text == "x"


@pytest.mark.parametrize(
    "entries",
    [
        [directory("d"), file("d/f"), file(".wh.d")],
        [file(".wh.d"), directory("d"), file("d/f")],
        [file("d/f"), file(".wh.d")],
        [file(".wh.d"), file("d/f")],
        [directory("d"), file(f"d/{OPQ}"), file("d/f")],
        [directory("d"), file("d/f"), file(f"d/{OPQ}")],
        [file(f"d/{OPQ}"), directory("d"), file("d/f")],
    ],
)
def test_directory_that_replaces_a_lower_one_is_opaque_in_any_order(target: Path, entries: list[TarEntry]) -> None:
    found = unpacked(target, *entries)
    assert set(found) == {"", "d", "d/f"}
    assert found["d"].xattrs == OPAQUE


@pytest.mark.parametrize(
    "entries", [[file(f"d/{OPQ}"), file("d/.wh.x")], [file("d/.wh.x"), file(f"d/{OPQ}")], [file("d/.wh.x"), file(".wh.d")]]
)
def test_no_whiteout_is_left_where_nothing_shines_through(target: Path, entries: list[TarEntry]) -> None:
    # overlayfs would list it without being able to show it
    assert set(unpacked(target, *entries)) == {"", "d"}


@pytest.mark.parametrize("name", [".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.plnk/1234.5678"])
def test_notes_of_aufs_are_left_out(target: Path, name: str) -> None:
    assert set(unpacked(target, file(name))) == {""}


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", "etc/.wh..", "etc/.wh...", ".wh.etc/file", "a/.wh.etc/file", ".wh.etc/.wh.file"]
)
def test_whiteout_of_nothing_that_could_exist_is_refused(target: Path, name: str) -> None:
    assert "whiteout" in refusal(target, file(name))
