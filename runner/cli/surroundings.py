"""What every command of a person needs: who we are, the settings, the store. Refuses root."""

from __future__ import annotations

import os

from runner import config_cache, errors, layout, paths
from runner.job.surroundings import Surroundings
from runner.kernel import accounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def open_all(environ: Mapping[str, str]) -> Surroundings:
    """Return account, settings and store of the caller. UserError for root, whose rights the engine is never to have."""
    if os.geteuid() == 0:
        raise errors.UserError(
            "dockless does not run as root",
            "use an unprivileged account with subordinate ids: runuser -u ACCOUNT -- dockless …; `dockless doctor` checks it",
        )
    try:
        account = accounts.current()
    except FileNotFoundError as e:
        raise errors.UserError(str(e.strerror), "run as an account of /etc/passwd; `dockless doctor` checks it") from e
    settings = config_cache.load(config_cache.locate(environ, home=account.home), home=account.home)
    root = environ.get("DOCKLESS_STATE", "") or settings.state_dir or paths.state_directory(account.home, dict(environ))
    return Surroundings(layout.open_store(root), settings, account)
