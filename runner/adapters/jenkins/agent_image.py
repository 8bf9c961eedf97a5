"""What an agent needs to know of its image: whose user it is, whether Java will find that user, and whether the locale is UTF-8.

A JVM takes `user.home` from /etc/passwd and not from HOME, and the charset of all that it writes from the locale.
"""

from __future__ import annotations

import os

from runner.errors import UserError
from runner.image import layers
from runner.kernel import syscalls
from runner.record import NamedTuple
from runner.sandbox import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runner.job.surroundings import Surroundings
    from runner.model import IdMap, Image

_LIMIT = 1024**2


class Facts(NamedTuple):
    """The user of an agent's container by number; /etc/passwd with a row for it, b"" if it has one; whether a locale is set."""

    uid: int = 0
    gid: int = 0
    passwd: bytes = b""
    has_locale: bool = False


def guess(image: Image | None, user: str) -> Facts:
    """Return what can be said of an image that may not be there yet: most users are root or a number."""
    wanted = user or (image.config.user if image else "")
    uid, _, gid = wanted.partition(":")
    number = int(uid) if _is_id(uid) else 0
    return Facts(number, int(gid) if _is_id(gid) else number, b"", image is not None and _has_locale(image))


def facts(image: Image, user: str, around: Surroundings, id_map: IdMap, *, home: str) -> Facts:
    """Return the facts of an image that is there; a row that is missing gets the home directory `home`. UserError for an unknown user."""
    wanted = user or image.config.user
    if not image.layers:
        if wanted.partition(":")[0] not in ("", "0", "root"):
            raise UserError(f"user {wanted} cannot be used: an agent in the host's own /usr is root of its container", "name an image")
        return Facts(has_locale=_has_locale(image))
    lowers = layers.lower_directories(image, id_map, store=around.store)
    lower = next((lower for lower in lowers if os.path.lexists(f"{lower}/etc/passwd")), lowers[0])
    root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = users.resolve(wanted, root=root)
        rows = _read(root)
    finally:
        os.close(root)
    missing = not any(row.split(b":")[2:3] == [str(found.uid).encode()] for row in rows.split(b"\n"))
    more = b"%b%bjenkins:x:%d:%d::%b:/bin/sh\n" % (
        rows,
        b"" if rows.endswith(b"\n") or not rows else b"\n",
        found.uid,
        found.gid,
        home.encode(),
    )
    return Facts(found.uid, found.gid, more if missing else b"", _has_locale(image))


def _has_locale(image: Image) -> bool:
    return any(name in ("LANG", "LC_ALL", "LC_CTYPE") for name, _ in image.config.env)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536


def _read(root: int) -> bytes:
    """Return an image's /etc/passwd, b"" if it has none; one that is no file is none."""
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        fd = syscalls.openat2(root, "etc/passwd", flags, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)
        with open(fd, "rb") as file:
            return file.read(_LIMIT)
    except OSError:
        return b""
