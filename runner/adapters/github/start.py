"""How a command of the hook begins: settings and store of the runner's own account. What is wrong there is no job's fault."""

from __future__ import annotations

from runner import config_cache, layout, paths
from runner.errors import InfraError, UserError
from runner.job.surroundings import Surroundings
from runner.kernel import accounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Return settings, store and account. InfraError for whatever is wrong with them."""
    try:
        account = accounts.current()
    except FileNotFoundError as e:
        raise InfraError(str(e.strerror), "run the actions runner as an account of /etc/passwd") from e
    try:
        settings = config_cache.load(config_cache.locate(environ, home=account.home), home=account.home)
        root = environ.get("DOCKLESS_STATE", "") or settings.state_dir or paths.state_directory(account.home, dict(environ))
        return Surroundings(layout.open_store(root), settings, account)
    except UserError as e:
        raise InfraError(e.message, e.hint) from e
