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
    """
    wanted, has_group, group = (text or "0").partition(":")
    if has_group and not group:
        raise errors.UserError(f"user {text!r} cannot be used: nothing follows the colon", "write UID, NAME, UID:GID or NAME:GROUP")
    entry = _passwd_entry(root, wanted)
    number = _number(wanted)
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
    if not (text.isascii() and text.isdigit()):
        if text.lstrip("+-").isdigit():
            raise errors.UserError(f"id {text!r} is out of range", "ids of a container are 0 to 65535")
        return None
    value = int(text)
    if len(text) > 10 or value >= IDS_PER_BUILD_USER:
        raise errors.UserError(f"id {text!r} is out of range", "ids of a container are 0 to 65535")
    return value


def _passwd_entry(root: int, wanted: str) -> tuple[int, int, str, str] | None:
    for fields in _rows(root, "etc/passwd", 7):
        if fields[0] == wanted or fields[2] == wanted:
            try:
                uid, gid = _number(fields[2]), _number(fields[3])
            except errors.UserError:
                continue
            if uid is not None and gid is not None:
                home = fields[5] if fields[5].startswith("/") else "/"
                return uid, gid, home, fields[0]
    return None


def _group(root: int, wanted: str) -> int:
    for fields in _rows(root, "etc/group", 4):
        if fields[0] == wanted and (gid := _number(fields[2])) is not None:
            return gid
    number = _number(wanted)
    if number is None:
        raise errors.UserError(f"group {wanted!r} does not exist in this image", "use one of its /etc/group, or a number below 65536")
    return number


def _supplementary(root: int, name: str, gid: int) -> tuple[int, ...]:
    if not name:
        return ()
    found = []
    for fields in _rows(root, "etc/group", 4):
        if name in fields[3].split(","):
            try:
                number = _number(fields[2])
            except errors.UserError:
                continue
            if number is not None and number != gid:
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
    finally:
        os.close(fd)
    rows = [line.split(":") for line in data.decode("utf-8", errors="replace").splitlines()]
    return [row for row in rows if len(row) >= width]
