"""Tar archives as a stream: hostile bytes -> members with validated numbers and their content, in bounded memory.

Reads what layers come in: v7, ustar, PAX (pax(1)) and GNU headers, with the sparse formats of GNU tar (its manual, "Storing Sparse Files").
Written here because the standard library's reader holds a header of any length in memory, keeps every member that it has seen, and costs
twice the time. What a member may do to a disk is decided in image.unpack.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BLOCK = 512
_LONGEST_HEADER = 1024**2  # of one extended header, and of all that belong to one member
_MOST_EXTENTS = 100_000  # of a sparse file
_LARGEST_FILE = 2**40
_XATTR = b"SCHILY.xattr."
_OCTAL = b"01234567"
_EARLIEST_NS, _LATEST_NS = -(2**31) * 10**9, 2**33 * 10**9  # what every file system holds

_KINDS = {
    b"\0": "file", b"0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink", b"3": "character", b"4": "block",
    b"5": "directory", b"6": "fifo",
}  # fmt: skip


class Malformed(ValueError):
    """The bytes are no archive, or one that nobody would make in good faith; the text says why."""


class Extent(NamedTuple):
    """One piece of a file that has content; what lies between extents is a hole. In bytes."""

    offset: int
    length: int


class Member(NamedTuple):
    """One entry of an archive. `path` and `link` are as written; `size` is the file's own, holes included."""

    path: bytes
    kind: str  # file | directory | symlink | hardlink | character | block | fifo
    link: bytes
    mode: int  # 12 bits
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    extents: tuple[Extent, ...]


class _Header(NamedTuple):
    """One 512-byte block, decoded as far as it can be without the extended headers before it."""

    raw: bytes
    kind: bytes
    size: int


class Reader:
    """An archive that arrives in chunks; `next` steps to a member, `content` gives its bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Read nothing yet."""
        self._chunks = iter(chunks)
        self._chunk = memoryview(b"")
        self._left = 0  # content of the current member that was not read
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}  # of global extended headers

    def next(self) -> Member | None:
        """Return the next member, None after the last one; raises Malformed. Content that was not read is passed over."""
        for _ in self._raw(self._left):
            pass
        self._exact(self._padding)
        self._padding = 0
        extended = dict(self._defaults)
        path = link = b""
        spent = 0
        is_announced = False
        while True:
            header = self._header()
            if header is None:
                if is_announced:
                    raise Malformed("the archive ends after an extended header")
                return None
            if header.kind not in (b"x", b"X", b"g", b"L", b"K"):
                return self._member(header, extended, path, link)
            spent += header.size
            if spent > _LONGEST_HEADER:
                raise Malformed(f"an extended header has {spent} bytes")
            data = self._exact(header.size)
            self._exact(-header.size % _BLOCK)
            is_announced = is_announced or header.kind != b"g"
            if header.kind == b"g":
                self._set_defaults(_records(data))
                extended = {**self._defaults, **extended}
            elif header.kind in (b"x", b"X"):
                extended.update(_records(data))
            elif header.kind == b"L":
                path = data.rstrip(b"\0")
            else:
                link = data.rstrip(b"\0")

    def content(self, member: Member) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset, bytes) of the member that `next` has just returned. Once."""
        for extent in member.extents:
            at = extent.offset
            for piece in self._raw(extent.length):
                yield at, piece
                at += len(piece)

    def drain(self) -> None:
        """Read to the end of the stream, past the archive's own end: padding that belongs to the layer's digest."""
        self._chunk = memoryview(b"")
        for _ in self._chunks:
            pass

    def _set_defaults(self, records: dict[bytes, bytes]) -> None:
        self._defaults.update(records)
        if sum(len(key) + len(value) for key, value in self._defaults.items()) > _LONGEST_HEADER:
            raise Malformed(f"its global headers hold more than {_LONGEST_HEADER} bytes")

    def _header(self) -> _Header | None:
        raw = self._exact(_BLOCK, or_nothing=True)
        if not raw or raw == bytes(_BLOCK):
            return None
        said = _number(raw[148:156], "checksum")
        # some old writers summed signed characters; only a header with bytes above 127 can differ
        if said != sum(raw) - sum(raw[148:156]) + 256 and said != sum(b - 256 if b > 127 else b for b in raw[:148] + raw[156:]) + 256:
            raise Malformed("a header has a wrong checksum: this is no tar archive, or a damaged one")
        return _Header(raw, raw[156:157], _number(raw[124:136], "size"))

    def _member(self, header: _Header, extended: dict[bytes, bytes], path: bytes, link: bytes) -> Member:
        raw = header.raw
        kind = _KINDS.get(header.kind)
        if kind is None:
            raise Malformed(f"a member has the unknown type {header.kind!r}")
        path = extended.get(b"path") or path or _path(raw)
        if header.kind == b"\0" and path.endswith(b"/"):
            kind = "directory"  # the way of v7
        stored = _decimal(extended, b"size", header.size) if kind == "file" else 0
        self._left, self._padding = stored, -stored % _BLOCK
        size = stored
        extents: tuple[Extent, ...] = (Extent(0, stored),)
        if kind == "file" and (header.kind == b"S" or extended.get(b"GNU.sparse.major") or extended.get(b"GNU.sparse.size")):
            path = extended.get(b"GNU.sparse.name") or path
            size, extents = self._sparse(header, extended)
        return Member(
            path=_name(path),
            kind=kind,
            link=_name(extended.get(b"linkpath") or link or _text(raw[157:257])),
            mode=_number(raw[100:108], "mode") & 0o7777,
            uid=_decimal(extended, b"uid", _number(raw[108:116], "uid")),
            gid=_decimal(extended, b"gid", _number(raw[116:124], "gid")),
            mtime_ns=_cut(_time(extended[b"mtime"]) if extended.get(b"mtime") else _signed(raw[136:148], "mtime") * 10**9),
            size=size,
            device=(_number(raw[329:337], "device"), _number(raw[337:345], "device")) if kind in ("character", "block") else (0, 0),
            xattrs=tuple((_name(key[len(_XATTR) :]), value) for key, value in extended.items() if key.startswith(_XATTR)),
            extents=extents,
        )

    def _sparse(self, header: _Header, extended: dict[bytes, bytes]) -> tuple[int, tuple[Extent, ...]]:
        if header.kind == b"S":
            size = _number(header.raw[483:495], "size")
            numbers = self._old_gnu_map(header.raw)
        elif extended.get(b"GNU.sparse.major") == b"1":
            size = _decimal(extended, b"GNU.sparse.realsize", 0)
            numbers = self._map_in_content()
        else:
            size = _decimal(extended, b"GNU.sparse.size", 0)
            numbers = [_integer(text) for text in extended.get(b"GNU.sparse.map", b"").split(b",") if text]
        if len(numbers) % 2:
            raise Malformed("a sparse file has a piece without a length")
        extents = tuple(Extent(offset, length) for offset, length in zip(numbers[::2], numbers[1::2], strict=True))
        end = 0
        for extent in extents:
            if extent.offset < end or extent.offset + extent.length > size:
                raise Malformed("a sparse file has pieces that overlap or lie outside it")
            end = extent.offset + extent.length
        if sum(extent.length for extent in extents) != self._left or size > _LARGEST_FILE:
            raise Malformed("a sparse file has another size than its pieces")
        return size, extents

    def _old_gnu_map(self, raw: bytes) -> list[int]:
        """Read the map that begins in the header and goes on in blocks of its own (typeflag S)."""
        fields, more = raw[386:482], raw[482]
        numbers: list[int] = []
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at : at + 12].strip(b"\0 "):
                    numbers += [_number(fields[at : at + 12], "sparse map"), _number(fields[at + 12 : at + 24], "sparse map")]
            if len(numbers) > 2 * _MOST_EXTENTS:
                raise Malformed("a sparse file has too many pieces")
            if not more:
                return numbers
            block = self._exact(_BLOCK)
            fields, more = block[:504], block[504]

    def _map_in_content(self) -> list[int]:
        """Read the map of format 1.0: decimal numbers, one a line, in blocks before the content."""
        text = bytearray()
        lines, wanted = 0, 1
        while lines < wanted:
            if len(text) > 42 * _MOST_EXTENTS or self._left < _BLOCK:
                raise Malformed("a sparse file has a map that does not end")
            self._left -= _BLOCK
            block = self._exact(_BLOCK)
            text += block
            if not lines and b"\n" in block:
                wanted = 2 * _integer(bytes(text).partition(b"\n")[0]) + 1
                if wanted > 2 * _MOST_EXTENTS:
                    raise Malformed("a sparse file has too many pieces")
            lines += block.count(b"\n")
        return [_integer(line) for line in bytes(text).split(b"\n")[1:wanted]]

    def _raw(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._chunk:
                self._refill()
            piece, self._chunk = self._chunk[:size], self._chunk[size:]
            self._left -= len(piece)
            size -= len(piece)
            yield piece

    def _exact(self, size: int, *, or_nothing: bool = False) -> bytes:
        if len(self._chunk) >= size:
            piece, self._chunk = self._chunk[:size], self._chunk[size:]
            return bytes(piece)
        pieces: list[bytes] = []
        while size:
            if not self._chunk:
                chunk = next(self._chunks, b"")
                if not chunk:
                    if or_nothing and not pieces:
                        return b""
                    raise Malformed("the archive ends in the middle of a member")
                self._chunk = memoryview(chunk)
                continue
            piece, self._chunk = self._chunk[:size], self._chunk[size:]
            pieces.append(bytes(piece))
            size -= len(piece)
        return b"".join(pieces)

    def _refill(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise Malformed("the archive ends in the middle of a member")
        self._chunk = memoryview(chunk)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Decode PAX records, "LENGTH KEY=VALUE\\n"; the repeated keys of sparse format 0.0 become the map of 0.1."""
    found: dict[bytes, bytes] = {}
    sparse_map: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        end = at + _integer(data[at:space]) if space > at else at
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        # without a space nothing would be passed over: the record before would be read for ever
        if space <= at or end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not key or not equals:
            raise Malformed("an extended header has a record that cannot be read")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse_map.append(value)
        else:
            found[key] = value
        at = end
    if sparse_map:
        found[b"GNU.sparse.map"] = b",".join(sparse_map)
    if len(found.get(b"GNU.sparse.map", b"").split(b",")) > 2 * _MOST_EXTENTS:
        raise Malformed("a sparse file has too many pieces")
    return found


def _path(raw: bytes) -> bytes:
    name = _text(raw[:100])
    prefix = _text(raw[345:500]) if raw[257:263] == b"ustar\0" else b""  # GNU uses that place for times
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(path: bytes) -> bytes:
    if b"\0" in path:
        raise Malformed("a name holds a zero byte")
    return path


def _signed(field: bytes, what: str) -> int:
    """Decode octal digits, or GNU's base 256 with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b"\0 ").partition(b"\0")[0]
    if digits.strip(_OCTAL):  # int() would take a sign, 0o7 and 1_0 as well
        raise Malformed(f"a header has a {what} that is no number")
    return int(digits or b"0", 8)


def _number(field: bytes, what: str) -> int:
    value = _signed(field, what)
    if not 0 <= value < 2**63:
        raise Malformed(f"a header has the {what} {value}")
    return value


def _decimal(extended: dict[bytes, bytes], key: bytes, default: int) -> int:
    # an empty value takes a global one back (pax(1), "typeflag g")
    return _integer(extended[key]) if extended.get(key) else default


def _integer(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise Malformed(f"an extended header has {text[:20]!r} where a number belongs")
    return int(text)


def _time(text: bytes) -> int:
    """Decode seconds since the epoch with a fraction, to nanoseconds."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    value = _integer(seconds or b"0") * 10**9 + _integer((fraction + b"0" * 9)[:9])
    return -value if text.startswith(b"-") else value


def _cut(time_ns: int) -> int:
    return max(_EARLIEST_NS, min(_LATEST_NS, time_ns))
