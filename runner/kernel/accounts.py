"""The Unix account of this process, from the user database."""

import errno
import os
import pwd

from runner.model import Account


def current() -> Account:
    """Return the account of this process. KeyError never escapes: OSError ENOENT if the user has no entry."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError as e:
        raise FileNotFoundError(errno.ENOENT, f"user {os.geteuid()} has no account", "/etc/passwd") from e
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def find(name: str) -> Account | None:
    """Return the account called `name`, None if there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def become(account: Account) -> None:
    """Become the account for good; only root may. Supplementary groups are dropped."""
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
