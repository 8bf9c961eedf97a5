"""USER of an image or of a request, resolved against the container's own /etc/passwd and /etc/group as docker does.

Both files belong to the image, so they are opened beneath its root, must be regular, and are read up to a bound (CVE-2024-9676).
"""

import os
import stat

from runner import errors
from runner.kernel import syscalls
from runner.model import IDS_PER_BUILD_USER, User

_LIMIT = 1024**2


def resolve(text: str, *, root: int) -> User:
    """Resolve "", NAME, UID, or either with :GROUP or :GID, below the root directory descriptor `root`. UserError for anything else.

    Supplementary groups come from /etc/group unless a group is named, the home directory from /etc/passwd ("/" without an entry).
    Digits are always an id, never the name of somebody who is called "1000".
    """
    wanted, has_group, group = text.partition(":")
    wanted = wanted or "0"
    if has_group and not group:
        raise errors.UserError(f"user {text!r} cannot be used: nothing follows the colon", "write UID, NAME, UID:GID or NAME:GROUP")
    number = _number(wanted)
    entry = _passwd_entry(root, wanted, number)
    if entry:
        uid, gid, home, name = entry
    elif number is not None:
        uid, gid, home, name = number, 0, "/", ""
    else:
        raise errors.UserError(f"user {wanted!r} does not exist in this image", "use one of its /etc/passwd, or a number below 65536")
    if has_group:
        return User(uid, _group(root, group), (), home)
    return User(uid, gid, _supplementary(root, name, gid), home)


def _number(text: str) -> int | None:
    """Return a decimal id; None for a name. UserError outside 0…65535: those are not mapped, and a wrapped one could be root."""
    if not text.lstrip("+-").isnumeric():
        return None
    # the length comes first: int() of thousands of digits is an error of its own
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < IDS_PER_BUILD_USER:
        return int(text)
    shown = text if len(text) <= 20 else f"{text[:20]}…"
    raise errors.UserError(f"id {shown!r} is out of range", "ids of a container are 0 to 65535")


def _usable(text: str) -> int | None:
    """Return an id that an image's file names, None where it is none that a container can have."""
    try:
        return _number(text)
    except errors.UserError:
        return None


def _passwd_entry(root: int, wanted: str, number: int | None) -> tuple[int, int, str, str] | None:
    """Return uid, gid, home and name of the first usable row for a name, or for a number if one is wanted."""
    for fields in _rows(root, "etc/passwd", 7):
        uid, gid = _usable(fields[2]), _usable(fields[3])
        if uid is None or gid is None:
            continue
        if uid == number if number is not None else fields[0] == wanted:
            return uid, gid, fields[5] if fields[5].startswith("/") else "/", fields[0]
    return None


def _group(root: int, wanted: str) -> int:
    number = _number(wanted)
    if number is not None:
        return number
    for fields in _rows(root, "etc/group", 3):
        gid = _usable(fields[2])
        if fields[0] == wanted and gid is not None:
            return gid
    raise errors.UserError(f"group {wanted!r} does not exist in this image", "use one of its /etc/group, or a number below 65536")


def _supplementary(root: int, name: str, gid: int) -> tuple[int, ...]:
    if not name:
        return ()
    found = []
    for fields in _rows(root, "etc/group", 4):
        number = _usable(fields[2])
        if number is not None and number != gid and name in fields[3].split(","):
            found.append(number)
    return tuple(dict.fromkeys(found))


def _rows(root: int, path: str, width: int) -> list[list[str]]:
    """Return the rows of a colon-separated file with at least `width` fields; none if it is missing or not what it should be."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO there must not hold us up
    try:
        fd = syscalls.openat2(root, path, flags, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        data = b""
        while len(data) < _LIMIT and (chunk := os.read(fd, _LIMIT - len(data))):
            data += chunk
    except OSError:
        return []
    finally:
        os.close(fd)
    if len(data) == _LIMIT:
        data = data[: data.rfind(b"\n") + 1]  # half a row could say anything
    # split and not splitlines, which knows a dozen more ends of a line than passwd(5) does
    rows = [line.split(":") for line in data.decode("utf-8", errors="replace").split("\n") if "\0" not in line]
    return [row for row in rows if len(row) >= width]
