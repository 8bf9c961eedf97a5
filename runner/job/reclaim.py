"""Giving back to the account what containers wrote into a shared directory as somebody else: its owner must be able to delete it.

In a shared workspace one id of a container is the account. What it runs as others (`su`, `chown`, a package's own user) writes files of the
build user's ids, which nobody outside of a namespace may touch.
"""

import errno
import os
import stat

from runner.kernel import files, userns
from runner.model import Account, BuildUser


def reclaim(directory: str, account: Account, user: BuildUser) -> int:
    """Give every file of a build user below `directory` to the account and return how many there were. Idempotent.

    Follows no link and enters no mount point; costs one look at each file when there is nothing to do. What vanishes or belongs to yet
    others stays as it is. Nobody of the job may be running. OSError if the directory cannot be walked.
    """
    if not _has_others(directory, account.uid):
        return 0
    return int(userns.call(user.keeper_map(account), lambda: _give_to_root(directory)))


def _has_others(directory: str, own: int) -> bool:
    walk = files.Walk(directory)
    try:
        while walk.subdirectories or not walk.is_at_start():
            if not walk.subdirectories:
                walk.leave()
                continue
            try:
                walk.enter(walk.subdirectories.pop(), open_up=False)
            except OSError as e:
                if e.errno == errno.EACCES:
                    return True
                continue
            if any(info.st_uid != own for _, info in _entries(walk)):
                return True
    finally:
        walk.close()
    return False


def _give_to_root(directory: str) -> int:
    """Give everything to id 0, which is the account in this namespace; ids that are not mapped here are somebody else's."""
    given = 0
    walk = files.Walk(directory)
    try:
        while walk.subdirectories or not walk.is_at_start():
            if not walk.subdirectories:
                walk.leave()
                continue
            try:
                walk.enter(walk.subdirectories.pop(), open_up=False)
            except OSError:
                continue
            for name, info in _entries(walk):
                if info.st_uid != 0:
                    try:
                        os.chown(name, 0, 0, dir_fd=walk.here, follow_symlinks=False)
                        given += 1
                    except OSError:
                        continue
    finally:
        walk.close()
    return given


def _entries(walk: files.Walk) -> list[tuple[str, os.stat_result]]:
    """Return what is where the walk is, and note the directories."""
    found = []
    for name in os.listdir(walk.here):
        try:
            info = os.stat(name, dir_fd=walk.here, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(info.st_mode):
            walk.subdirectories.append(name)
        found.append((name, info))
    return found
