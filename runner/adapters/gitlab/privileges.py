"""gitlab-runner in system mode is root; we are root only as long as it takes to open what only root may touch."""

from __future__ import annotations

import os

from runner.errors import InfraError, UserError
from runner.kernel import accounts
from runner.model import Account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def current() -> Account:
    """Return the account of this process. InfraError if the user database has none."""
    try:
        return accounts.current()
    except FileNotFoundError as e:
        raise InfraError(str(e.strerror), "run as an account of /etc/passwd; `dockless doctor` checks it") from e


def drop(name: str) -> Account:
    """Leave root as `leave_root` does, and return the account that we are then. Raises as both."""
    leave_root(name)
    return current()


def leave_root(name: str) -> None:
    """Become the account `name` for good if we are root; an ordinary user stays what it is.

    The working directory, which only the runner may read, is left either way. UserError if the account does not exist or is root.
    """
    os.chdir("/")
    if os.geteuid() != 0:
        return
    account = accounts.find(name)
    if account is None:
        raise UserError(
            f"account {name} does not exist", f"useradd --system --create-home {name}, or name another as `account:` in the configuration"
        )
    if account.uid == 0:
        raise UserError("account of the engine is root", "name an unprivileged account as `account:` in the configuration")
    try:
        accounts.become(account)
    except OSError as e:
        raise InfraError(f"cannot become account {name}: {e.strerror}") from e


def home_environ(account: Account, environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` as the account would have it: the XDG directories of root are not its own."""
    if environ.get("HOME") == account.home:
        return dict(environ)
    return {**{name: value for name, value in environ.items() if not name.startswith("XDG_")}, "HOME": account.home}
