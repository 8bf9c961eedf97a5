"""`dockless github install`: the launcher that a runner calls as its container hook, and the line of its .env that says so.

The launcher is JavaScript, because the runner starts that with a node of its own by an absolute path. A shell script it gives to the first
`bash` on a PATH in front of which every job can put directories; the one that is written as well is for runners without such jobs.

It names the program by the path that stays when dockless is updated. The interpreter is named in the program's first line, by an absolute
path as well, and so is `-I`: nothing is imported from where the hook starts, which is the checkout.
"""

from __future__ import annotations

import json
import os

from runner.errors import InfraError, UserError
from runner.kernel import files, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "ACTIONS_RUNNER_CONTAINER_HOOKS"
NAME = "dockless-hook"
_JAVASCRIPT = """\
// The container hook of an actions runner: starts dockless, passes the runner's signals on to it, and ends as it does.
// Written by `dockless github install`. node cannot exec, so this process stays; the runner signals nothing but it.
'use strict';
const { spawn } = require('child_process');
const { constants } = require('os');

const command = COMMAND;
// jobs can put directories in front of the PATH that comes here
const env = { ...process.env, PATH: 'TRUSTED' };
const child = spawn(command[0], command.slice(1), { stdio: 'inherit', env });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => child.kill(signal));
}
child.on('error', (error) => {
  console.log(`::error::dockless cannot be started: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  process.exit(signal ? 128 + constants.signals[signal] : code);
});
"""
_SHELL = """\
# The container hook of an actions runner, as a shell script: `bash -e` of the runner's choice becomes dockless.
# Written by `dockless github install`. Prefer dockless-hook.js: which bash reads this file, a job can choose by GITHUB_PATH.
PATH=TRUSTED
export PATH
exec COMMAND
"""


def command(program: str, *, config: str = "", state_dir: str = "") -> list[str]:
    """Return the words that start the hook."""
    options = [*(["--config", os.path.abspath(config)] if config else []), *(["--state-dir", state_dir] if state_dir else [])]
    return [program, *options, "github", "hook"]


def javascript(words: Sequence[str]) -> str:
    """Return the launcher for node."""
    return _JAVASCRIPT.replace("COMMAND", json.dumps(list(words))).replace("TRUSTED", process.TRUSTED_PATH)


def shell(words: Sequence[str]) -> str:
    """Return the launcher for bash."""
    return _SHELL.replace("COMMAND", process.display(words)).replace("TRUSTED", process.TRUSTED_PATH)


def main(program: str, environ: Mapping[str, str], *, runner_dir: str, with_shell: bool) -> list[str]:
    """Write both launchers and the line, and return what was written. Idempotent; the runner reads .env when it starts.

    UserError for a directory that is no runner's, InfraError when it cannot be written to.
    """
    directory = os.path.abspath(runner_dir)
    check_directory(directory)
    if not is_isolated(program):
        raise UserError(f"{program} is no program that a runner should start", "use the one that `./dev setup` installed")
    words = command(program, config=environ.get("DOCKLESS_CONFIG", ""), state_dir=environ.get("DOCKLESS_STATE", ""))
    hook = f"{directory}/{NAME}.{'sh' if with_shell else 'js'}"
    written = {
        f"{directory}/{NAME}.js": javascript(words),
        f"{directory}/{NAME}.sh": shell(words),
        f"{directory}/.env": with_line(_read(f"{directory}/.env"), hook),
    }
    try:
        for path, text in written.items():
            files.write_atomic(path, text.encode(), mode=0o644)
            if os.geteuid() == 0:  # the runner's own user keeps what is in its directory
                owner = os.stat(directory)
                os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as e:
        raise InfraError(f"{e.filename or directory} cannot be written: {e.strerror}", "run this as the runner's user") from e
    return list(written)


def is_isolated(program: str) -> bool:
    """Tell whether a file is a program that an interpreter starts by its absolute path, and with `-I`."""
    try:
        first = files.read(program, limit_bytes=1024**2).partition(b"\n")[0].split()
    except OSError:
        return False
    return os.access(program, os.X_OK) and len(first) == 2 and first[0].startswith(b"#!/") and first[1].startswith(b"-I")


def check_directory(directory: str) -> None:
    """Raise UserError if a directory is none of an actions runner, or one whose hooks it could not call."""
    if not os.path.isdir(directory) or not any(
        os.path.exists(f"{directory}/{name}") for name in ("run.sh", "config.sh", "bin/Runner.Listener")
    ):
        raise UserError(f"{directory} is not the directory of an actions runner", "name the one that has its config.sh and run.sh")
    if any(character.isspace() or character in "\"'" for character in directory):
        raise UserError(f"{directory!r} has a space or quote in it, at which the runner would cut it", "move the runner to a plain path")


def with_line(text: str, hook: str) -> str:
    """Return the text of a .env whose one line for hooks names `hook`; the others stay as they are."""
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() != VARIABLE]
    return "\n".join([*kept, f"{VARIABLE}={hook}"]) + "\n"


def configured(text: str) -> str:
    """Return the hook that a .env names, "" for none; the last line counts."""
    lines = [line.partition("=") for line in text.splitlines()]
    return next((value.strip() for name, _, value in reversed(lines) if name.strip() == VARIABLE), "")


def _read(path: str) -> str:
    try:
        return files.read(path, limit_bytes=1024**2).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as e:
        raise InfraError(f"{path} cannot be read: {e}", "run this as the runner's user") from e
