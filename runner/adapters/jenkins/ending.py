"""`docker stop`, `docker kill` and `docker rm`."""

from __future__ import annotations

from runner import errors, log
from runner.adapters.jenkins import containers, signal_names
from runner.adapters.jenkins.options import Grammar
from runner.job import detached
from runner.kernel import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.adapters.jenkins.containers import Container
    from runner.adapters.jenkins.shim import Shim

_STOP = Grammar("stop", "-t= --time= --timeout= -s= --signal=")
_KILL = Grammar("kill", "-s= --signal=")
_RM = Grammar("rm", "-f --force -v --volumes", {"-l": "links are not served", "--link": "links are not served"})
_GRACE_S = 10.0


def stop(arguments: Sequence[str], shim: Shim) -> int:
    """Ask the main processes to end, and make them after some seconds; print what was stopped. The files stay until `docker rm`."""
    parsed = _STOP.parse(arguments)
    text = parsed.last("timeout") or parsed.last("time")
    try:
        grace_s = float(text) if text else _GRACE_S
    except ValueError as e:
        raise errors.UserError(f"docker stop: {text[:40]!r} is no number of seconds") from e
    chosen = signal_names.number(parsed.last("signal")) if parsed.last("signal") else 0

    def one(word: str) -> None:
        container = containers.get(shim.around, word)
        record = container.record
        patience_s = grace_s if grace_s >= 0 else 3600.0
        detached.stop(container.job, record.part, record.main, number=chosen or record.stop_signal, grace_s=patience_s)
        if record.auto_remove:
            containers.remove(shim.around, container)

    return _each("stop", parsed.words, one)


def kill(arguments: Sequence[str], shim: Shim) -> int:
    """Signal the main processes."""
    parsed = _KILL.parse(arguments)
    number = signal_names.number(parsed.last("signal", "KILL"))

    def one(word: str) -> None:
        container = containers.get(shim.around, word)
        detached.send(container.job, container.record.main, number)

    return _each("kill", parsed.words, one)


def rm(arguments: Sequence[str], shim: Shim) -> int:
    """Remove containers with all that is theirs; with --force also those that run, and it is no failure when there is none."""
    parsed = _RM.parse(arguments)
    force = parsed.has("force")
    for number in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
        signals.signal(number, signals.SIG_IGN)  # no daemon would go on in our place

    def one(word: str) -> None:
        container = containers.find(shim.around, word) if force else containers.get(shim.around, word)
        if container is None:
            return
        _refuse_running(container, force=force)
        containers.remove(shim.around, container)

    return _each("rm", parsed.words, one)


def _refuse_running(container: Container, *, force: bool) -> None:
    if not force and container.is_running():
        raise errors.UserError(f"container {containers.short(container.record.id)} is running: stop it first, or use docker rm --force")


def _each(verb: str, words: Sequence[str], act: Callable[[str], None]) -> int:
    """Do something to each container that is named, and print its name; goes on past failures, and the exit code tells of them."""
    if not words:
        raise errors.UserError(f"docker {verb}: no container is named")
    code = 0
    for word in words:
        try:
            act(word)
        except errors.UserError as e:
            log.fail(e.message, e.hint)
            code = 1
        else:
            print(word)
    return code
