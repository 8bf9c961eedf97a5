"""Tar archives to read: what tarfile writes, headers made of raw fields, and a reader of everything in one."""

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from runner.image import tar

BLOCK = 512
END = bytes(2 * BLOCK)


class Read(NamedTuple):
    """A member with its content, holes filled."""

    member: tar.Member
    data: bytes


def pieces(raw: bytes, size: int) -> Iterator[bytes]:
    yield from (raw[at : at + size] for at in range(0, len(raw), size))


def read_one(reader: tar.Reader, member: tar.Member) -> Read:
    out = io.BytesIO(bytes(min(member.size, 4 * 1024**2)))
    for offset, piece in reader.content(member):
        out.seek(offset)
        out.write(piece)
    return Read(member, out.getvalue())


def read_all(raw: bytes, *, chunk: int = 1024**2) -> list[Read]:
    reader = tar.Reader(pieces(raw, chunk))
    found = []
    while member := reader.next():
        found.append(read_one(reader, member))
    reader.drain()
    return found


def members(raw: bytes) -> list[tar.Member]:
    return [one.member for one in read_all(raw)]


def info(name: str = "file", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def written(*infos: tarfile.TarInfo, archive_format: int = tarfile.PAX_FORMAT, globals_: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=archive_format, pax_headers=globals_, errors="surrogateescape") as archive:
        for one in infos:
            archive.addfile(one, io.BytesIO(b"x" * one.size))
    return out.getvalue()


def header(name: bytes = b"f", *, kind: bytes = b"0", **fields: bytes) -> bytes:
    """Return a ustar header with these raw fields and a right checksum."""
    at = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157, "magic": 257, "major": 329, "prefix": 345}
    at.update(sparse=386, more=482, realsize=483)
    raw = bytearray(BLOCK)
    raw[: len(name)] = name
    raw[156:157] = kind
    for key, value in {"magic": b"ustar\x0000", **fields}.items():
        raw[at[key] : at[key] + len(value)] = value
    return with_checksum(bytes(raw))


def with_checksum(raw: bytes) -> bytes:
    total = sum(raw[:148]) + sum(raw[156:]) + 8 * 32
    return raw[:148] + b"%06o\0 " % total + raw[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def extended(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header(b"pax", kind=kind, size=b"%011o" % len(data)) + padded(data)


def base256(value: int, length: int = 12) -> bytes:
    """Return a number as GNU writes what does not fit into octal digits."""
    bits: int = value % 256**length | 0x80 << 8 * (length - 1)
    return bits.to_bytes(length, "big")
