"""Archives that nobody should have written give members or Malformed, nothing else, in bounded memory."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.image import tar
from tests.support.archives import BLOCK, END, base256, extended, header, info, members, padded, read_all, record, written


def sparse(sparse_map: bytes, *, size: bytes = b"100", stored: int = 0) -> bytes:
    return extended(record(b"GNU.sparse.size", size), record(b"GNU.sparse.map", sparse_map)) + header(size=b"%011o" % stored) + bytes(1024)


def sparse_1_0(sparse_map: bytes, *, realsize: bytes = b"100") -> bytes:
    records = record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"), record(b"GNU.sparse.realsize", realsize)
    content = padded(sparse_map)
    return extended(*records) + header(size=b"%011o" % len(content)) + content + END


def old_sparse(*numbers: bytes, realsize: bytes = b"00000000144\0") -> bytes:
    fields = b"".join(number.ljust(12, b"\0") for number in numbers)
    return header(kind=b"S", magic=b"ustar  \0", sparse=fields, realsize=realsize, size=b"00000000000\0") + END


@pytest.mark.parametrize(
    "raw",
    [
        sparse(b"5"),
        sparse(b"0,5,9", stored=5),
        sparse(b"10,5,0,5", stored=10),
        sparse(b"0,10,5,10", stored=20),
        sparse(b"90,20", stored=20),
        sparse(b"0,5", stored=6),
        sparse(b"-5,5", stored=5),
        sparse(b"a,b"),
        sparse(b"0,0", size=b"9223372036854775808"),
        sparse(b"0,0", size=str(2**62).encode()),
        sparse(b",".join([b"0,0"] * 100_001)),
        sparse_1_0(b"1\n0\n"),
        sparse_1_0(b"9\n" + b"0" * 5000),
        sparse_1_0(b"99999999999999999\n0\n0\n"),
        sparse_1_0(b"x\n0\n0\n"),
        sparse_1_0(b"1\n-1\n1\n"),
        sparse_1_0(b"1\n200\n0\n"),
        sparse_1_0(b"0\n", realsize=str(2**43).encode()),
        old_sparse(base256(-1), base256(1)),
        old_sparse(b"00000000000\0", b"00000000005\0"),
        old_sparse(base256(2**70), base256(2**70)),
        old_sparse(realsize=base256(2**63)),
    ],
)
def test_sparse_map_that_makes_no_sense_is_refused(raw: bytes) -> None:
    with pytest.raises(tar.Malformed):
        read_all(raw)


def test_sparse_file_of_nothing_but_a_hole() -> None:
    assert read_all(sparse(b""))[0].data == bytes(100)
    assert read_all(sparse_1_0(b"0\n"))[0].data == bytes(100)
    assert read_all(old_sparse())[0].data == bytes(100)


def test_long_sparse_map_costs_time_in_proportion_to_its_length() -> None:
    numbers = b"99999\n" + b"".join(b"%d\n0\n" % at for at in range(99_999))
    (one,) = members(sparse_1_0(numbers, realsize=b"100000"))
    assert len(one.extents) == 99_999


# --- what nobody should have written


@pytest.mark.parametrize(
    "raw",
    [
        b"no tar at all" * 100,
        header()[:-1] + b"x",
        header()[:300],
        header(size=b"00000001000\0") + b"short",
        header(size=b"00000001001\0") + bytes(512),
        header(size=base256(-1)),
        header(size=base256(2**63)),
        header(size=b"\xff" * 12),
        header(size=b"-0000000001\0"),
        header(mode=b"0o7"),
        header(mode=b"1_0"),
        header(mode=b"+7"),
        header(mtime=b"1 2"),
        header(size=b"99999999999\0"),
        header(uid=base256(-1, 8)),
        header(mode=b"abc"),
        header(kind=b"Q"),
        header(kind=b"M"),
        extended(record(b"size", b"-1")) + header(),
        extended(record(b"size", b"99999999999999999999999")) + header(),
        extended(record(b"size", "²".encode())) + header(),
        extended(record(b"uid", b"1_0")) + header(),
        extended(record(b"mtime", b"nan")) + header(),
        extended(record(b"path", b"a\0b")) + header(),
        extended(record(b"linkpath", b"a\0b")) + header(),
        extended(record(b"SCHILY.xattr.user.a\0b", b"1")) + header(),
        extended(record(b"path", b"a")),
        extended(record(b"path", b"a")) + END,
        extended(b"5 a=\n") + header()[:-512],
        extended(b"99 path=x\n") + header(),
        extended(b"0 path=x\n") + header(),
        extended(b"-9 path=x\n") + header(),
        extended(b"10 path=xyz") + header(),
        extended(b"6 path\n") + header(),
        extended(b"path=x\n") + header(),
        extended(record(b"path", b"x") + bytes(20)) + header(),  # read for ever once
        extended(b"4 =\n") + header(),
        header(kind=b"L", size=b"00000000005\0") + padded(b"a\0b\0\0") + header(),
        header(kind=b"L", size=b"00000000003\0") + padded(b"abc") + END,
        header(kind=b"x", size=b"%011o" % (1024**2 + 1)),
        header(kind=b"L", size=base256(2**62)),
        header(kind=b"K", size=b"%011o" % 600_000) + padded(b"a" * 600_000) + header(kind=b"L", size=b"%011o" % 600_000),
    ],
)
def test_broken_archive_is_malformed(raw: bytes) -> None:
    with pytest.raises(tar.Malformed):
        read_all(raw)


def test_every_cut_is_malformed_or_the_members_before_it() -> None:
    raw = written(info("a", size=600), info("b" * 200, size=5), info("c"))
    whole = [one.member.path for one in read_all(raw)]
    outcomes = set()
    for end in range(0, len(raw) - 2 * BLOCK, 100):
        try:
            outcomes.add(len(read_all(raw[:end])))
        except tar.Malformed:
            outcomes.add(-1)
    assert outcomes <= {-1, 0, 1, 2, len(whole)}
    assert -1 in outcomes


def members_or_malformed(raw: bytes) -> None:
    try:
        found = read_all(raw, chunk=700)
    except tar.Malformed:
        return
    for one in found:
        assert b"\0" not in one.member.path + one.member.link
        assert min(one.member.size, one.member.uid, one.member.gid, *one.member.device) >= 0
        assert one.member.mode <= 0o7777


@given(st.binary(max_size=3000))
def test_any_bytes_are_members_or_malformed(raw: bytes) -> None:
    members_or_malformed(raw)


fields = st.one_of(st.binary(max_size=12), st.integers(-(2**95), 2**95).map(base256), st.from_regex(rb"[0-7 \0-]{1,12}", fullmatch=True))
values = st.one_of(
    st.binary(max_size=30), st.integers(-5, 2**70).map(lambda n: str(n).encode()), st.from_regex(rb"[0-9,.\n-]{0,20}", fullmatch=True)
)
keys = st.sampled_from(
    [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.user.x"]
    + [b"GNU.sparse." + name for name in (b"major", b"size", b"map", b"offset", b"numbytes", b"realsize", b"name")]
)
blocks = st.one_of(
    st.builds(
        lambda kind, name, size, mode, uid, mtime, link, sparse, realsize: header(
            name, kind=kind, size=size, mode=mode[:8], uid=uid[:8], mtime=mtime, link=link, sparse=sparse, realsize=realsize
        ),
        st.sampled_from([bytes([code]) for code in b"\x0001234567SLKxgXQ"]),
        st.binary(max_size=100),
        st.one_of(fields, st.integers(0, 1500).map(lambda size: b"%011o" % size)),
        fields,
        fields,
        fields,
        st.binary(max_size=100),
        st.one_of(st.just(b""), st.binary(max_size=96)),
        fields,
    ),
    st.builds(
        lambda records, kind: extended(*records, kind=kind),
        st.lists(st.builds(record, keys, values), max_size=5),
        st.sampled_from([b"x", b"g"]),
    ),
    st.binary(min_size=BLOCK, max_size=BLOCK),
)


@settings(max_examples=500)
@given(st.lists(blocks, max_size=6).map(b"".join))
def test_any_headers_with_right_checksums_are_members_or_malformed(raw: bytes) -> None:
    members_or_malformed(raw + END)


def peak_memory(chunks: Iterator[bytes]) -> int:
    reader = tar.Reader(chunks)
    tracemalloc.start()
    try:
        while reader.next():
            pass
    except tar.Malformed:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def endless_globals() -> Iterator[bytes]:
    for number in range(100):
        yield extended(record(b"key%d" % number, b"v" * 900_000), kind=b"g") + header()


def endless_members() -> Iterator[bytes]:
    for _ in range(2000):
        yield extended(record(b"path", b"p" * 50_000)) + header(size=b"%011o" % 512) + bytes(512)


def endless_file() -> Iterator[bytes]:
    yield header(size=base256(2**60))
    for _ in range(2000):
        yield bytes(64 * 1024)


def endless_sparse_header() -> Iterator[bytes]:
    yield header(kind=b"S", magic=b"ustar  \0", more=b"\1")
    for _ in range(500):
        yield (b"00000000000\0" * 42 + b"\1").ljust(BLOCK, b"\0") * 100


@pytest.mark.parametrize("chunks", [endless_globals, endless_members, endless_file, endless_sparse_header])
def test_memory_stays_bounded_whatever_the_archive_holds(chunks: Callable[[], Iterator[bytes]]) -> None:
    assert peak_memory(chunks()) < 24 * 1024**2
