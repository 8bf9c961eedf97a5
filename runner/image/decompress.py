"""A layer's blob as the bytes of its tar, whatever it is compressed with: told by its first bytes, as docker does.

gzip by isal (Intel's ISA-L: three times zlib's speed), zstd by zstandard (the reference library). Frames that ask for a dictionary or for
more memory than the format recommends to support are refused.
"""

from collections.abc import Iterator
from typing import IO

import zstandard
from isal import igzip, isal_zlib

CHUNK_BYTES = 1024**2
_WIDEST_WINDOW = 128 * 1024**2  # what `zstd --ultra -22` uses; RFC 8878 asks decoders for 8 MiB at least
_EROFS = bytes(1024) + b"\xe2\xe1\xf5\xe0"  # without a name it would pass for an empty archive
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"hsqs": "squashfs", _EROFS: "EROFS"}


class Malformed(ValueError):
    """The compressed bytes are damaged or of a kind that is not read; the text says which."""


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the uncompressed bytes of a regular file, in pieces of at most CHUNK_BYTES. Raises Malformed, OSError.

    A zstd stream that was cut just ends (its library does not tell): the caller compares the digest of what came.
    """
    start = file.read(len(_EROFS))
    file.seek(0)
    for magic, name in _FOREIGN.items():
        if start.startswith(magic):
            raise Malformed(f"it is compressed with or made by {name}, which is not supported")
    if start.startswith(b"\x1f\x8b"):
        return _gzip(file)
    if start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        return _zstd(file)
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with igzip.IGzipFile(fileobj=file, mode="rb") as stream:  # type: ignore[no-untyped-call]  # isal has no types there
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except (igzip.BadGzipFile, EOFError, isal_zlib.IsalError) as e:  # type: ignore[misc]  # its stubs name no base class
                raise Malformed(f"its gzip data is damaged: {e}") from e
            if not chunk:
                return
            yield chunk


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WIDEST_WINDOW)
    with decompressor.stream_reader(file, read_size=256 * 1024, read_across_frames=True, closefd=False) as stream:
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except zstandard.ZstdError as e:
                raise Malformed(f"its zstd data is damaged: {e}") from e
            if not chunk:
                return
            yield chunk
