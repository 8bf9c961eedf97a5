"""`dockless doctor`: check every prerequisite of this machine and this account, and name the command that mends what is missing."""

import json
import os
import sys
from collections.abc import Mapping

from runner import config, config_cache, config_file, errors, paths
from runner.adapters.gitlab import privileges
from runner.job import checks, facts
from runner.job.checks import FAILED, OK, WARNING, Check
from runner.kernel import accounts
from runner.model import Account


def main(*, as_json: bool, account: str, environ: Mapping[str, str]) -> int:
    """Print every check; 0 when nothing failed, else 1. As root this process becomes the account that is checked, for good."""
    found = _checks(account, environ)
    if as_json:
        answer = [{"name": check.name, "state": check.state, "found": check.found, "mend": check.mend} for check in found]
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        sys.stdout.write(text(found))
    return 1 if any(check.state == FAILED for check in found) else 0


def text(found: list[Check]) -> str:
    """Return the checks as aligned lines, each command once, below the first check that it mends."""
    wide = max(len(check.name) for check in found)
    lines, told = [], set()
    for check in found:
        lines.append(f"{check.state:7}  {check.name:{wide}}  {check.found}")
        if check.mend and check.mend not in told:
            lines.append(f"{'':7}  {'':{wide}}  $ {check.mend}")
            told.add(check.mend)
    failed, warnings = (sum(check.state == state for check in found) for state in (FAILED, WARNING))
    lines.append(f"{failed} failed, {warnings} warnings" if failed or warnings else "everything is fine")
    return "".join(f"{line}\n" for line in lines)


def _checks(name: str, environ: Mapping[str, str]) -> list[Check]:
    """Check configuration and account; the machine only where there is an account to check it for."""
    try:
        before = accounts.current()
    except OSError as e:
        mend = f"useradd --system --user-group --create-home --uid {os.geteuid()} dockless"
        return [Check("account", FAILED, e.strerror or str(e), mend)]
    where = config_cache.locate(environ, home=before.home if before.uid else "")
    try:
        settings = config_file.load(where)
        found = [Check("configuration", OK, where or "none: the defaults")]
    except errors.UserError as e:
        settings = config.Settings()
        found = [Check("configuration", FAILED, e.message, f"sensible-editor {where}  # {e.hint}")]
    account, check = _account(before, name or settings.account, is_named=bool(name))
    found.append(check)
    if account is None:
        return found
    own = environ if account == before else privileges.home_environ(account, environ)
    root = environ.get("DOCKLESS_STATE", "") or settings.state_dir or paths.state_directory(account.home, dict(own))
    return found + checks.judge(facts.gather(account, root, settings))


def _account(before: Account, name: str, *, is_named: bool) -> tuple[Account | None, Check]:
    """Become the account that is to be checked; None, and why, if that cannot be. UserError if only root could."""
    if before.uid != 0:
        if is_named and name != before.name:
            raise errors.UserError(
                f"doctor: account {name} can only be checked by itself or by root", f"runuser -u {name} -- dockless doctor"
            )
        return before, Check("account", OK, f"{before.name} (uid {before.uid})")
    wanted = accounts.find(name)
    if wanted is None:
        return None, Check("account", FAILED, f"{name} does not exist", f"useradd --system --user-group --create-home {name}")
    if wanted.uid == 0:
        mend = "useradd --system --user-group --create-home dockless && dockless doctor --account dockless"
        return None, Check("account", FAILED, f"{name} is root, whose rights the engine is never to have", mend)
    os.chdir("/")
    try:
        accounts.become(wanted)
    except OSError as e:
        return None, Check("account", FAILED, f"cannot become {name}: {e.strerror}", f"runuser -u {name} -- dockless doctor")
    return wanted, Check("account", OK, f"{name} (uid {wanted.uid})")
