"""The real gitlab-runner, driven for one job: its config.toml out of our own snippet, its command line, its process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import launcher

BINARY = shutil.which("gitlab-runner")

# what a runner has besides its [[runners]]: looks for a job at once and often, and keeps no state of its own
_GLOBAL = "concurrent = 1\ncheck_interval = 1\nlog_level = 'warning'\nshutdown_timeout = 30\n\n"


def install(directory: Path) -> Path:
    """Write the `dockless` program of this working tree into a new directory and return it: a runner needs one file to start."""
    directory.mkdir()
    program = directory / "dockless"
    launcher.write(str(program), sys.executable)
    return program


def config_toml(snippet: str, *, url: str, token: str) -> str:
    """Return a whole config.toml: the entry that `dockless gitlab register-snippet` printed, with this runner's own url and token."""
    text = _GLOBAL + snippet
    for key, value in (("url", url), ("token", token)):
        text, count = re.subn(rf'^(\s*){key} = ".*"$', rf'\g<1>{key} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1, f"the snippet has {count} lines for {key}:\n{snippet}"
    return text


def argv(binary: str, config: Path, *, name: str = "dockless") -> list[str]:
    """Return the command that takes one job for the entry `name` and ends; it also ends when no job comes for half a minute."""
    return [binary, "run-single", "-c", str(config), "-r", name, "--max-builds", "1", "--wait-timeout", "30"]


def environ(inherited: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """Return the environment of the runner's process: no proxies towards the coordinator, no settings of the caller's own runner."""
    dropped = ("CI_", "CUSTOM_", "DOCKLESS_", "GITLAB_", "RUNNER_", "REGISTER_", "XDG_", "DOCKER_")
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy") and name not in ("TMPDIR", "CI")
    }
    return {**kept, "HOME": str(home)}


# settings under which jobs reach what a test serves at `outward_address`
REACHABLE: dict[str, Any] = {"network": {"egress": {"allow": ["host"]}}}


def outward_address() -> str:
    """Return an address of this machine that its jobs can reach too, which loopback is not. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])


class Process:
    """A runner at work; `output` is what it says itself, apart from the job's log."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        # a group of its own: what a failed test leaves of it can be ended
        self._process = subprocess.Popen(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
        )
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            for line in pipe:
                self._said += line

    @property
    def output(self) -> str:
        return self._said.decode(errors="replace")

    def wait(self, timeout_s: float) -> int:
        """Wait for its own end, which is not the job's verdict."""
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """End it if it still runs: SIGTERM first, so that it can call cleanup_exec."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                try:
                    self._process.wait(30)
                except subprocess.TimeoutExpired:
                    continue
        self._reader.join(5)


@contextmanager
def running(binary: str, config: Path, *, home: Path) -> Iterator[Process]:
    """Start a runner for one job; it does not outlive the block."""
    process = Process(argv(binary, config), environ(os.environ, home=home))
    try:
        yield process
    finally:
        process.end()
