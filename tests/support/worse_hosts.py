"""The same machine made worse for one command: a script changes its mounts in a namespace of their own, where containers still run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.kernel import accounts
from runner.model import Extent, IdMap
from runner.sandbox import build_users
from tests.support.engine import Result, wait_until
from tests.support.gitlab_jobs import GitLab

# plays a job where this process does not go, and tells what came of it
_PLAY = """
import json, sys
from tests.support.gitlab_replay import Replay
given = json.load(sys.stdin)
result = Replay(given["driver"], given["payload"], env=given["env"], graceful_s=30.0).run()
told = result._replace(log=result.log.decode(errors="replace"), runner_log=result.runner_log.decode(errors="replace"))
json.dump(told._asdict(), sys.stdout)
"""


class Scripts(NamedTuple):
    """What a shell does around a command; "$@" is the command."""

    before: str = ":"  # makes the machine worse
    after: str = ":"  # looks at what came of it


class Played(NamedTuple):
    """What of a job's result matters here."""

    status: str
    failure_reason: str
    exit_code: int | None
    log: str
    runner_log: str
    prepare_attempts: int
    told_after: str  # what the script behind it told on stderr


def without(program: str) -> Scripts:
    """Return what makes a program look as if it were not installed."""
    return Scripts(f"mount --bind /dev/null {os.path.realpath(program)}")


def run(argv: Sequence[str], *, env: Mapping[str, str], scripts: Scripts, stdin: str = "", timeout_s: float = 120) -> Result:
    """Run a command to its end on a machine that is worse.

    It is the account in a user namespace that maps everything to itself and keeps its capabilities: setuid programs have no power there,
    but newuidmap needs none where its caller has the capability already.
    """
    shell = f'read go\n{scripts.before}\ncode=0; "$@" || code=$?\n{scripts.after}\nexit $code'
    inside = ["unshare", "--user", "--mount", "--keep-caps", "sh", "-ec", shell, "sh", *argv]
    with subprocess.Popen(
        inside, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            ours = os.readlink("/proc/self/ns/user")
            assert wait_until(lambda: os.readlink(f"/proc/{process.pid}/ns/user") != ours)
            _map(process.pid)
            out, err = process.communicate(f"go\n{stdin}", timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return Result(process.returncode, out, err)


def _map(pid: int) -> None:
    account = accounts.current()
    everything = build_users.every_map(account)
    identity = IdMap(*(tuple(Extent(each.outside, each.outside, each.count) for each in extents) for extents in everything))
    for program, extents in (("newuidmap", identity.uids), ("newgidmap", identity.gids)):
        numbers = [str(number) for extent in extents for number in extent]
        subprocess.run([program, str(pid), *numbers], check=True, capture_output=True)


def play(gitlab: GitLab, payload: dict[str, Any], *, scripts: Scripts) -> Played:
    """Play a whole GitLab job on a machine that is worse; afterwards nothing of it may be left."""
    given = {"driver": gitlab.driver(), "payload": payload, "env": gitlab.environment()}
    done = run([sys.executable, "-c", _PLAY], env=gitlab.environment(), scripts=scripts, stdin=json.dumps(given))
    assert done.code == 0, done.err
    assert gitlab.engine.leftovers() == []
    result = json.loads(done.out)
    return Played(**{name: result[name] for name in Played._fields[:-1]}, told_after=done.err)
