"""`dockless github doctor`: is a runner connected, and will its calls arrive? What the machine needs besides, `dockless doctor` says."""

from __future__ import annotations

import os
import stat

from runner.adapters.github import install
from runner.errors import RunnerError
from runner.kernel import files, process
from runner.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Finding(NamedTuple):
    """One thing that was looked at: `hint` "" means that it is well, `is_fatal` that jobs cannot run."""

    text: str
    hint: str = ""
    is_fatal: bool = True


def check(runner_dir: str, environ: Mapping[str, str], *, state_dir: str) -> list[Finding]:
    """Return what was found, in the order in which it has to be mended. Changes nothing."""
    directory = os.path.abspath(runner_dir)
    again = f"dockless github install --runner-dir {directory}"
    try:
        install.check_directory(directory)
    except RunnerError as e:
        return [Finding(e.message, e.hint)]
    found = [Finding(f"{directory} is a runner's"), _owner(directory)]
    named = environ.get(install.VARIABLE, "")
    hook = named or install.configured(_text(f"{directory}/.env"))
    if not hook:
        return [*found, Finding("the runner has no container hook", again)]
    if named:
        found.append(Finding(f"{install.VARIABLE} is set in this shell, which the runner may not have", f"better: {again}", is_fatal=False))
    text = _text(hook)
    if not hook.startswith("/") or not hook.endswith((".js", ".sh")) or any(character.isspace() for character in hook):
        return [*found, Finding(f"the runner cannot call {hook}: it is no plain, absolute path to a .js or .sh file", again)]
    if not text:
        return [*found, Finding(f"the hook {hook} is not there, or cannot be read", again)]
    found.append(Finding(f"the runner calls {hook}"))
    found += _safety(directory, hook, state_dir=state_dir)
    words = _command(text)
    if not words:
        return [*found, Finding(f"{hook} is not what dockless writes", again)]
    return [*found, *_program(words, again), *_node(directory, hook)]


def _owner(directory: str) -> Finding:
    uid = os.stat(directory).st_uid
    if uid == os.geteuid() != 0:
        return Finding("the runner belongs to this account")
    return Finding(
        f"the runner belongs to uid {uid}, this account is uid {os.geteuid()}",
        "jobs run as the runner's user, who needs subordinate ids: run `dockless doctor` and this as that user",
        is_fatal=uid == 0 or os.geteuid() != 0,
    )


def _safety(directory: str, hook: str, *, state_dir: str) -> list[Finding]:
    found = []
    if hook.endswith(".sh"):
        found.append(
            Finding(
                "a .sh hook is read by the first bash on a PATH that jobs can change", f"use {directory}/{install.NAME}.js", is_fatal=False
            )
        )
    work = os.path.realpath(f"{directory}/_work")
    for what, path in (("the hook", hook), ("the state of dockless", state_dir)):
        if os.path.realpath(path).startswith(f"{work}/"):
            found.append(Finding(f"{what} lies in _work, where every job can write: {path}", "move it elsewhere"))
    if stat.S_IMODE(os.stat(hook).st_mode) & 0o022:
        found.append(Finding(f"others than its owner may write to {hook}", f"chmod go-w {hook}"))
    return found


def _program(words: list[str], again: str) -> list[Finding]:
    """Start the program that the hook starts, as far as its version."""
    try:
        done = process.run([words[0], "--version"], timeout_s=30)
    except OSError as e:
        return [Finding(f"what the hook starts does not: {e.strerror or e}", f"install dockless again, then: {again}")]
    if not install.is_isolated(words[0]):
        return [Finding(f"{words[0]} may import what lies in a checkout", f"use the program that `./dev setup` installed, then: {again}")]
    return [Finding(f"{words[0]} starts: {done.stdout.decode(errors='replace').strip()}")]


def _node(directory: str, hook: str) -> list[Finding]:
    if not hook.endswith(".js"):
        return []
    nodes = [name for name in ("node20", "node24") if os.access(f"{directory}/externals/{name}/bin/node", os.X_OK)]
    if nodes:
        return [Finding(f"the runner has a node to start it with ({', '.join(nodes)})")]
    return [Finding(f"{directory}/externals has no node to start the hook with", "unpack the runner's archive again")]


def _command(text: str) -> list[str]:
    """Return the words that a launcher of ours starts; none for anything else."""
    import json
    import shlex

    for line in text.splitlines():
        try:
            if line.startswith("const command = "):
                words = json.loads(line.removeprefix("const command = ").rstrip(";"))
            elif line.startswith("exec "):
                words = shlex.split(line.removeprefix("exec "))
            else:
                continue
        except ValueError:
            return []
        if isinstance(words, list) and len(words) > 2 and words[-2:] == ["github", "hook"]:
            return [str(word) for word in words]
    return []


def _text(path: str) -> str:
    try:
        return files.read(path, limit_bytes=1024**2).decode(errors="replace")
    except OSError:
        return ""
