"""Archives of every format that tarfile and GNU tar write are read as they were meant."""

import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.image import tar
from tests.support.archives import END, Read, base256, extended, header, info, members, padded, pieces, read_all, record, written

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
TYPES = {
    "file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE,
    "character": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE,
}  # fmt: skip


# --- what tarfile writes

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
names = texts.filter(lambda text: text.strip("/") != "")
infos = st.builds(
    lambda name, kind, size, mode, uid, gid, mtime, link, device, xattrs: info(
        name,
        type=TYPES[kind],
        size=size if kind == "file" else 0,
        mode=mode,
        uid=uid,
        gid=gid,
        mtime=mtime,
        linkname=link if kind in ("symlink", "hardlink") else "",
        devmajor=device if kind in ("character", "block") else 0,
        pax_headers={f"SCHILY.xattr.user.{key}": value for key, value in xattrs.items()},
    ),
    names,
    st.sampled_from(sorted(TYPES)),
    st.integers(0, 2000),
    st.integers(0, 0o7777),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(-(2**31), 2**33),
    names,
    st.integers(0, 4095),
    st.dictionaries(st.text("abc.", min_size=1, max_size=9), texts, max_size=2),
)


def as_told(one: tarfile.TarInfo, *, has_xattrs: bool) -> tuple[object, ...]:
    """Return what a member says, in the words of tarfile's own reader."""
    xattrs = {key.removeprefix("SCHILY.xattr.").encode(): value.encode() for key, value in one.pax_headers.items()} if has_xattrs else {}
    device = one.devmajor if one.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else 0
    return one.name.encode().rstrip(b"/"), one.type, one.size, one.mode, one.uid, one.gid, one.mtime * 10**9, one.linkname, device, xattrs


def as_read(one: Read) -> tuple[object, ...]:
    member = one.member
    assert one.data == b"x" * member.size
    link = member.link.decode()
    name, xattrs = member.path.rstrip(b"/"), dict(member.xattrs)
    return (
        name, TYPES[member.kind], member.size, member.mode, member.uid, member.gid, member.mtime_ns, link, member.device[0], xattrs
    )  # fmt: skip


@given(st.lists(infos, max_size=5), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.sampled_from([1, 511, 512, 1000, 10**6]))
def test_whatever_tarfile_writes_is_read_back(made: list[tarfile.TarInfo], archive_format: int, chunk: int) -> None:
    raw = written(*made, archive_format=archive_format)
    expected = [as_told(one, has_xattrs=archive_format == tarfile.PAX_FORMAT) for one in made]
    assert [as_read(one) for one in read_all(raw, chunk=chunk)] == expected


@pytest.mark.parametrize("archive_format", FORMATS)
def test_every_kind_and_field_of_every_format(archive_format: int) -> None:
    made = [info(kind, type=code, mode=0o6755, uid=1, gid=2, mtime=3) for kind, code in TYPES.items()]
    made[0].size = 700
    found = read_all(written(*made, archive_format=archive_format))
    assert [one.member.kind for one in found] == list(TYPES)
    assert {(m.mode, m.uid, m.gid, m.mtime_ns) for m, _ in found} == {(0o6755, 1, 2, 3 * 10**9)}
    assert found[0].data == b"x" * 700


def test_prefix_of_ustar_joins_the_name_and_gnus_other_use_of_it_does_not() -> None:
    name = "d" * 100 + "/" + "f" * 90
    assert members(written(info(name), archive_format=tarfile.USTAR_FORMAT))[0].path == name.encode()
    assert members(header(magic=b"ustar  \0", prefix=b"12345670123") + END)[0].path == b"f"


@pytest.mark.parametrize("archive_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_links_of_any_length(archive_format: int) -> None:
    (found,) = members(written(info("n" * 5000, type=tarfile.SYMTYPE, linkname="l" * 5000), archive_format=archive_format))
    assert (found.path, found.link) == (b"n" * 5000, b"l" * 5000)


@pytest.mark.parametrize("archive_format", FORMATS)
def test_name_of_any_bytes(archive_format: int) -> None:
    assert members(written(info("a\udcff\udcfe"), archive_format=archive_format))[0].path == b"a\xff\xfe"


@pytest.mark.parametrize(("number", "found"), [(2**40, 2**40), (0o7777777, 0o7777777)])
def test_numbers_in_base_256(number: int, found: int) -> None:
    (one,) = members(written(info(uid=number, mtime=number), archive_format=tarfile.GNU_FORMAT))
    assert one.uid == found


def test_times_keep_their_nanoseconds_and_their_sign() -> None:
    early, late = members(written(info(pax_headers={"mtime": "-1.5"}), info(pax_headers={"mtime": "1.123456789123"})))
    assert (early.mtime_ns, late.mtime_ns) == (-1_500_000_000, 1_123_456_789)
    assert members(header(mtime=base256(-5)) + END)[0].mtime_ns == -5 * 10**9


@pytest.mark.parametrize("raw", [extended(record(b"mtime", b"9" * 18)) + header(), header(mtime=base256(2**90))])
def test_time_beyond_what_a_file_system_holds_is_cut(raw: bytes) -> None:
    assert members(raw + END)[0].mtime_ns == 2**33 * 10**9


def test_globals_hold_until_a_member_says_otherwise() -> None:
    own, default = members(written(info("a", pax_headers={"uid": "7"}), info("b"), globals_={"uid": "5"}))
    assert (own.uid, default.uid) == (7, 5)


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"GNU.sparse.size", b"GNU.sparse.major"])
def test_empty_value_takes_a_global_one_back(key: bytes) -> None:
    plain = header(b"name", uid=b"0000007\0", mtime=b"00000000005\0")
    assert members(extended(record(key, b"1"), kind=b"g") + extended(record(key, b"")) + plain + END) == members(plain + END)


def test_xattrs_are_binary_and_may_be_empty() -> None:
    raw = extended(record(b"SCHILY.xattr.user.a", b"\0\n=\xff"), record(b"SCHILY.xattr.user.b", b""))
    assert members(raw + header() + END)[0].xattrs == ((b"user.a", b"\0\n=\xff"), (b"user.b", b""))


def test_v7_directory_is_told_by_its_slash_and_a_file_of_later_formats_is_not() -> None:
    v7, later, after = read_all(
        header(b"d/", kind=b"\0", magic=bytes(8)) + header(b"f/", size=b"00000000003\0") + padded(b"abc") + header(b"z") + END
    )
    assert (v7.member.kind, later.member.kind, later.data) == ("directory", "file", b"abc")
    assert after.member.path == b"z"


def test_checksum_of_signed_characters_is_accepted() -> None:
    raw = header(b"\xff\xfe")
    total = sum(b - 256 if b > 127 else b for b in raw[:148] + raw[156:]) + 256
    assert members(raw[:148] + b"%06o\0 " % total + raw[156:] + END)[0].path == b"\xff\xfe"


def test_content_that_is_not_read_is_passed_over() -> None:
    reader = tar.Reader(pieces(written(info("a", size=5000), info("b")), 100))
    assert reader.next()
    second = reader.next()
    assert second
    assert second.path == b"b"
    assert reader.next() is None


def test_archive_without_an_end_and_one_of_nothing() -> None:
    assert [one.path for one in members(header())] == [b"f"]
    assert members(b"") == []
    assert members(END + b"garbage that belongs to the digest") == []


# --- sparse files


@pytest.fixture(scope="module")
def sparse_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "sparse"
    with path.open("wb") as file:
        for at in range(60):  # more pieces than an old GNU header and one block of its extension hold
            file.seek(at * 64 * 1024 + 8192)
            file.write(b"%04d" % at * 1024)
        file.truncate(60 * 64 * 1024 + 123)
    return path


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
    ids=["old", "0.0", "0.1", "1.0"],
)
def test_sparse_file_of_gnu_tar_comes_back_with_its_holes(sparse_file: Path, options: list[str]) -> None:
    raw = subprocess.run(
        ["tar", "-C", sparse_file.parent, "-S", *options, "-cf", "-", sparse_file.name, sparse_file.name], check=True, capture_output=True
    ).stdout
    one, link = read_all(raw, chunk=1000)
    assert one.member.path == b"sparse"
    assert one.data == sparse_file.read_bytes()
    assert len(one.member.extents) >= 60
    assert sum(extent.length for extent in one.member.extents) < len(one.data) // 4
    assert link.member.kind == "hardlink"
