"""How a verb begins: the configuration is read, then root is left behind, then the store is opened."""

from collections.abc import Mapping

from runner import config_cache, config_file, layout, paths
from runner.adapters.gitlab import privileges
from runner.errors import InfraError, UserError
from runner.job.surroundings import Surroundings


def surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Return settings, account and store for a verb that may have been started as root; the process is the account afterwards.

    InfraError also for what is wrong with the configuration: whoever wrote the job cannot mend it.
    """
    before = privileges.current()
    try:
        settings = config_file.load(config_cache.locate(environ, home=before.home if before.uid else ""))
        account = privileges.drop(settings.account)
    except UserError as e:
        raise InfraError(e.message, e.hint) from e
    root = (
        environ.get("DOCKLESS_STATE", "")
        or settings.state_dir
        or paths.state_directory(account.home, privileges.home_environ(account, environ))
    )
    return Surroundings(layout.open_store(root), settings, account)
