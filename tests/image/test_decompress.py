"""Compressed layers: every form that is read, every damage that is told, and no more memory than promised."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from runner.image import decompress
from tests.support.defences import attack, without

DATA = bytes(range(256)) * 10_000
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
EMPTY_FRAME = zstandard.compress(b"")
KINDS = {"gzip": gzip.compress(DATA), "zstd": zstandard.compress(DATA), "plain": DATA}


def read(raw: bytes) -> bytes:
    pieces = list(decompress.chunks(io.BytesIO(raw)))
    assert all(0 < len(piece) <= decompress.CHUNK_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_content_comes_back(kind: str) -> None:
    assert read(KINDS[kind]) == DATA


@given(st.binary(max_size=100_000), st.sampled_from([gzip.compress, zstandard.compress]), st.integers(1, 4))
def test_several_members_or_frames_are_one_stream(data: bytes, compress: Callable[[bytes], bytes], times: int) -> None:
    assert read(compress(data) * times) == data * times


def test_empty_members_and_frames_in_between_end_nothing() -> None:
    assert read(gzip.compress(b"a") + gzip.compress(b"") * 3 + gzip.compress(b"b")) == b"ab"
    assert read(zstandard.compress(b"a") + EMPTY_FRAME * 3 + zstandard.compress(b"b")) == b"ab"


def test_nothing_is_nothing() -> None:
    assert read(b"") == b""
    assert read(gzip.compress(b"")) == b""
    assert read(EMPTY_FRAME) == b""


def test_header_fields_of_gzip_are_passed_over() -> None:
    flags = b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03"  # header checksum, extra field, name, comment
    fields = flags + b"\x02\0ab" + b"name\0" + b"comment\0"
    fields += (zlib.crc32(fields) & 0xFFFF).to_bytes(2, "little")
    assert read(fields + gzip.compress(DATA, mtime=0)[10:]) == DATA


def test_zero_padding_after_gzip_is_no_content() -> None:
    assert read(gzip.compress(DATA) + bytes(5000)) == DATA


def test_skippable_frames_are_skipped_wherever_they_are() -> None:
    frame = zstandard.compress(b"x")
    assert read(SKIPPABLE + frame + SKIPPABLE * 2 + frame + SKIPPABLE) == b"xx"
    assert read(SKIPPABLE) == b""


@attack(13, without("runner/image/decompress.py", 'raise Malformed(f"its gzip data is damaged: {e}") from e', "return"))
@pytest.mark.parametrize("raw", [gzip.compress(DATA) + b"garbage after the end", gzip.compress(DATA) + bytes(9) + b"garbage"])
def test_garbage_after_gzip_is_told(raw: bytes) -> None:
    with pytest.raises(decompress.Malformed, match="gzip data is damaged"):
        read(raw)


@attack(13, without("runner/image/decompress.py", 'raise Malformed(f"its zstd data is damaged: {e}") from e', "return"))
def test_garbage_after_zstd_is_told() -> None:
    with pytest.raises(decompress.Malformed, match="zstd data is damaged"):
        read(zstandard.compress(DATA) + b"garbage after the end")


@pytest.mark.parametrize("kept", [2, 5, 10, 11, 100, -9, -8, -4, -1])
def test_truncated_gzip_is_told(kept: int) -> None:
    with pytest.raises(decompress.Malformed, match="gzip data is damaged"):
        read(KINDS["gzip"][:kept])


@pytest.mark.parametrize("kept", [4, 5, 8, 30, -9])
def test_truncated_zstd_gives_less_which_the_digest_tells(kept: int) -> None:
    found = read(KINDS["zstd"][:kept])
    assert len(found) < len(DATA)
    assert DATA.startswith(found)


@pytest.mark.parametrize("at", [3, 12, -6, -2])
def test_changed_gzip_is_told(at: int) -> None:
    raw = bytearray(KINDS["gzip"])
    raw[at] ^= 0xFF
    with pytest.raises(decompress.Malformed, match="gzip data is damaged"):
        read(bytes(raw))


def test_changed_zstd_is_told() -> None:
    raw = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(DATA))
    raw[-2] ^= 0xFF
    with pytest.raises(decompress.Malformed, match="zstd data is damaged"):
        read(bytes(raw))


def test_dictionary_is_refused() -> None:
    trained = zstandard.train_dictionary(4096, [b"sample %d of many" % number * 20 for number in range(500)])
    with pytest.raises(decompress.Malformed, match="zstd data is damaged"):
        read(zstandard.ZstdCompressor(dict_data=trained).compress(b"sample 7 of many" * 50))


@attack(13, without("runner/image/decompress.py", "max_window_size=_WIDEST_WINDOW", "max_window_size=2**31"))
@pytest.mark.parametrize(("window_log", "is_read"), [(27, True), (28, False)])
def test_window_that_costs_too_much_memory_is_refused(window_log: int, is_read: bool) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = stream.compress(DATA) + stream.flush()
    assert (raw[5] >> 3) + 10 == window_log
    if is_read:
        assert read(raw) == DATA
    else:
        with pytest.raises(decompress.Malformed, match="zstd data is damaged"):
            read(raw)


@attack(13, without("runner/image/decompress.py", "if start.startswith(magic):", "if False:"))
@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (bz2.compress(b"x"), "bzip2"),
        (lzma.compress(b"x"), "xz"),
        (b"hsqs" + bytes(100), "squashfs"),
        (bytes(1024) + b"\xe2\xe1\xf5\xe0", "EROFS"),
    ],
)
def test_what_is_not_read_is_named(raw: bytes, name: str) -> None:
    with pytest.raises(decompress.Malformed, match=f"{name}, which is not supported"):
        read(raw)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x28\xb5\x2f\xfd", SKIPPABLE[:4]]))
def test_any_bytes_are_content_or_malformed(rest: bytes, magic: bytes) -> None:
    try:
        read(magic + rest)
    except decompress.Malformed:
        pass


@given(st.sampled_from(["gzip", "zstd"]), st.integers(0, 10**6), st.integers(0, 255))
def test_any_changed_byte_is_content_or_malformed(kind: str, at: int, value: int) -> None:
    raw = bytearray(KINDS[kind])
    raw[at % len(raw)] = value
    try:
        read(bytes(raw))
    except decompress.Malformed:
        pass


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bomb_costs_no_more_memory_than_its_window(kind: str) -> None:
    code = f"""
import gzip, io, resource, zstandard
from runner.image import decompress
def zeros():
    if {kind!r} == "gzip":
        return gzip.compress(bytes(64 * 1024**2)) * 16
    return zstandard.ZstdCompressor().compress(bytes(64 * 1024**2)) * 16
raw = zeros()
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(chunk) for chunk in decompress.chunks(io.BytesIO(raw)))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    total, grown_kib = map(int, out.split())
    assert total == 1024**3
    assert grown_kib < 64 * 1024
