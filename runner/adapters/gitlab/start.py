"""How a verb begins: the configuration is read, then root is left behind, then the store is opened."""

from __future__ import annotations

from runner import config_cache, layout, paths
from runner.adapters.gitlab import privileges
from runner.errors import InfraError, UserError
from runner.job.surroundings import Surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Return settings, account and store for a verb that may have been started as root; the process is the account afterwards.

    InfraError also for what is wrong with the configuration: whoever wrote the job cannot mend it.
    """
    before = privileges.current()
    try:
        path = config_cache.locate(environ, home=before.home if before.uid else "")
        settings = config_cache.load(path, home=before.home)
        account = privileges.drop(settings.account)
    except UserError as e:
        raise InfraError(e.message, e.hint) from e
    root = (
        environ.get("DOCKLESS_STATE", "")
        or settings.state_dir
        or paths.state_directory(account.home, privileges.home_environ(account, environ))
    )
    return Surroundings(layout.open_store(root), settings, account)
