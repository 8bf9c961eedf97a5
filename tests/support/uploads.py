"""Bodies of HTTP requests as Go's client sends them: chunked, or of a known length; and the one file of a multipart form in them."""

import re
from io import BufferedIOBase

_LIMIT_BYTES = 256 * 1024**2


class BadUpload(Exception):
    """The body is not what its headers promise."""


def read_body(stream: BufferedIOBase, headers: dict[str, str]) -> bytes:
    """Read one request's whole body; `headers` have lower-case names. BadUpload for broken framing or more than 256 MiB."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(stream)
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > _LIMIT_BYTES:
        raise BadUpload(f"Content-Length {length!r} cannot be taken")
    body = stream.read(int(length))
    if len(body) != int(length):
        raise BadUpload("the body ends early")
    return body


def _read_chunks(stream: BufferedIOBase) -> bytes:
    body = bytearray()
    while True:
        line = stream.readline(64).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", line):
            raise BadUpload("a chunk has no size")
        size = int(line, 16)
        if len(body) + size > _LIMIT_BYTES:
            raise BadUpload("the body is too large")
        piece = stream.read(size)
        if len(piece) != size or stream.readline(3) != b"\r\n":
            raise BadUpload("a chunk ends early")
        if size == 0:
            return bytes(body)
        body += piece


def form_file(content_type: str, body: bytes, *, field: str) -> tuple[str, bytes]:
    """Return (filename, content) of one file field of a multipart/form-data body (RFC 7578). BadUpload if there is none."""
    boundary = re.match(r'multipart/form-data;.*boundary="?([^";]+)"?', content_type, re.IGNORECASE)
    if not boundary:
        raise BadUpload("not multipart/form-data with a boundary")
    mark = b"\r\n--" + boundary[1].encode()
    _, *parts = (b"\r\n" + body).split(mark)
    if not parts or not parts[-1].startswith(b"--"):
        raise BadUpload("the form has no end")
    for part in parts[:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        text = head.decode(errors="replace")
        found = re.search(r'name="([^"]*)"', text.replace("filename=", "file="))
        filename = re.search(r'filename="([^"]*)"', text)
        if found and filename and found[1] == field:
            return filename[1], content
    raise BadUpload(f"the form has no file {field!r}")
