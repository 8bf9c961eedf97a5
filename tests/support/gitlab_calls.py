"""One call of a custom executor's program, the way gitlab-runner makes it: process group, pipes, kill sequence, verdict."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

BUILD_FAILURE, SYSTEM_FAILURE = 1, 2

Sink = Callable[[bytes], None]


class Failure(NamedTuple):
    """Why something failed: `exit_code` is None where gitlab-runner sends none; `build` is its BuildError, which is never retried."""

    message: str
    reason: str = "runner_system_failure"
    exit_code: int | None = None
    build: bool = False


class Ended(NamedTuple):
    """How a call ended: `returncode` is negative for a signal, None if the program could not be started or would not die."""

    returncode: int | None
    seconds: float
    failure: Failure | None


class Context:
    """Go's context as far as gitlab-runner uses it: done once cancelled, past its deadline, or when its parent is."""

    def __init__(self, parent: "Context | None" = None, *, timeout_s: float | None = None) -> None:
        self._parent, self._cancelled = parent, threading.Event()
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def cancel(self) -> None:
        """Make it done, for good."""
        self._cancelled.set()

    def done(self) -> str:
        """Return "", "canceled" or "deadline"."""
        if self._parent is not None and (why := self._parent.done()):
            return why
        if self._cancelled.is_set():
            return "canceled"
        return "deadline" if self._deadline is not None and time.monotonic() >= self._deadline else ""

    def failure(self) -> Failure | None:
        """Return why the job ends because of it, None while it lasts."""
        match self.done():
            case "":
                return None
            case "canceled":
                return Failure("canceled", "job_canceled", build=True)
            case _:
                return Failure("execution took longer than the job may", "job_execution_timeout", build=True)

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than the context lasts."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.done():
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))


class Kill(NamedTuple):
    """How long a signalled call may take: after SIGTERM, and after SIGKILL."""

    graceful_s: float = 600.0
    force_s: float = 10.0


class Call:
    """A program of the driver, running.

    It leads its own process group; stdin is /dev/null and its output goes to `stdout` and `stderr`, piece by piece, from threads. It has
    ended only when both pipes are at their end, which a child that keeps one of them open puts off, as it does with Go's exec package.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        stdout: Sink,
        stderr: Sink,
    ) -> None:
        """Start the program; raises OSError if that cannot be done."""
        self.began = time.monotonic()
        program = argv[0] if "/" in argv[0] else shutil.which(argv[0], path=env.get("PATH", os.defpath)) or argv[0]
        self.process = subprocess.Popen(
            [program, *argv[1:]], env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0,
        )  # fmt: skip
        assert self.process.stdout and self.process.stderr
        pipes: list[tuple[IO[bytes], Sink]] = [(self.process.stdout, stdout), (self.process.stderr, stderr)]
        self._pumps = [threading.Thread(target=_pump, args=each, daemon=True) for each in pipes]
        self._ended = threading.Event()
        for pump in self._pumps:
            pump.start()
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        self.process.wait()
        for pump in self._pumps:
            pump.join()
        self._ended.set()

    def signal_group(self, number: int) -> None:
        """Send a signal to the program and all that stayed in its group; nothing happens if they are gone."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end of the program and of its output, and tell whether it came."""
        return self._ended.wait(timeout_s)

    def wait(self, context: Context, kill: Kill, code_file: str) -> Ended:
        """Wait for the end; a context that is done has the group terminated, then killed, then given up."""
        while not self.ended(0.01):
            if context.done():
                return self._kill(kill, code_file)
        return self._verdict(code_file)

    def _kill(self, kill: Kill, code_file: str) -> Ended:
        for number, patience_s in ((signal.SIGTERM, kill.graceful_s), (signal.SIGKILL, kill.force_s)):
            self.signal_group(number)
            if self.ended(patience_s):
                return self._verdict(code_file)
        failure = Failure(f"failed to kill process PID={self.process.pid}, likely process is dormant")
        return Ended(None, time.monotonic() - self.began, failure)

    def _verdict(self, code_file: str) -> Ended:
        code = self.process.returncode
        return Ended(code, time.monotonic() - self.began, classify(code, code_file))


def classify(returncode: int, code_file: str) -> Failure | None:
    """Tell what gitlab-runner makes of an exit code, with the file that may hold the script's own."""
    if returncode == 0:
        return None
    if returncode == SYSTEM_FAILURE:
        return Failure(f"exit status {returncode}")
    if returncode != BUILD_FAILURE:
        shown = returncode if returncode > 0 else -1
        words = f"exit status {shown}" if returncode > 0 else f"signal: {signal.Signals(-returncode).name}"
        return Failure(f"unknown Custom executor executable exit code {shown}; executable execution terminated with: {words}")
    try:
        with open(code_file, encoding="utf-8", errors="replace", newline="") as file:
            # a scanner of lines drops one carriage return, and the number must be all that is left
            line = file.read().split("\n", 1)[0].removesuffix("\r")
    except OSError:
        return Failure("exit status 1", "script_failure", BUILD_FAILURE, build=True)
    if not re.fullmatch(r"[+-]?[0-9]+", line):
        return Failure("unknown Custom executor executable exit code 2; executable execution terminated with: exit status 1")
    return Failure(f"exit status {line}", "script_failure", int(line), build=True)


def _pump(pipe: IO[bytes], sink: Sink) -> None:
    with pipe:
        while piece := os.read(pipe.fileno(), 32 * 1024):
            sink(piece)
