"""What a member says about a file besides its content: owner, mode and extended attributes."""

import errno
import os

from runner.image import bounds, tar

_NO_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
_TOO_LARGE = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)


def describe(fd: int, member: tar.Member, meter: bounds.Meter) -> None:
    """Set owner, mode and extended attributes; in this order, since chown(2) takes setuid bits and capabilities away.

    Raises UserError for what no file here can have, OSError when the disk fails.
    """
    os.fchown(fd, *owner(member, meter.what))
    os.fchmod(fd, member.mode)
    for raw_name, value in member.xattrs:
        name = os.fsdecode(raw_name)
        # overlayfs reads user.overlay.* as orders; the rest means nothing in a user namespace or would be refused
        if name != "security.capability" and (not name.startswith("user.") or name.startswith("user.overlay.")):
            continue
        meter.content(len(value))
        try:
            os.setxattr(fd, name, value)
        except OSError as e:
            if e.errno in _TOO_LARGE and meter.has_room(0):
                words = f"{bounds.show(member.path)} has an attribute that is too large for the file system here"
                raise bounds.refused(meter.what, words) from e
            if e.errno not in _NO_XATTR:
                raise


def owner(member: tar.Member, what: str) -> tuple[int, int]:
    """Return the owner's ids; UserError, naming the layer `what`, for one that no container has."""
    if member.uid > 65535 or member.gid > 65535:
        ids = f"{member.uid}:{member.gid}"
        raise bounds.refused(what, f"{bounds.show(member.path)} belongs to {ids}, and a container has the ids 0 to 65535")
    return member.uid, member.gid
