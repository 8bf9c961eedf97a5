"""The `dockless` program as a person runs it, with a store of its own, and a count of what it leaves behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

TREE = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Engine:
    """One store and the command line over it."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.home = root / "home"
        self.home.mkdir(parents=True)
        self.config = root / "config.yaml"
        self.config.write_text("{}\n")

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line for some arguments."""
        return [sys.executable, "-m", "runner", "--config", str(self.config), "--state-dir", str(self.state), *arguments]

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a command: the test's, with a home of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DOCKLESS_", "CUSTOM_ENV_", "DOCKER_"))}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(TREE), **(more or {})}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a command and leave it running."""
        return subprocess.Popen(
            self.argv(*arguments), env=self.environ(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout_s: float = 60) -> Result:
        """Run a command to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environ(env),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def leftovers(self) -> list[str]:
        """Return what of jobs is still there: files below jobs/, processes, mounts in sight of this process."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.state) in line]
        return [*self.jobs(), *(f"process {pid}: {_command(pid)}" for pid in processes_of(self.state)), *mounts]

    def jobs(self) -> list[str]:
        """Return what is in the directory of jobs: locks and leftovers included."""
        try:
            return sorted(os.listdir(self.state / "jobs"))
        except FileNotFoundError:
            return []


def processes_of(state: Path) -> list[int]:
    """Return the pids of live processes that belong to a store: they name it, or sit among mounts that lie in it."""
    mark = str(state)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            seen = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace") + Path(f"/proc/{name}/mountinfo").read_text()
        except OSError:
            continue
        if mark in seen:
            found.append(int(name))
    return found


def sleeping(mark: str) -> list[int]:
    """Return the pids of all processes of this machine that sleep for `mark` seconds, whatever they are called and wherever they run."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path(f"/proc/{name}/cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                found.append(int(name))
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return "ended just now"


def uids_of(state: Path) -> set[int]:
    """Return the host uids under which a store's containers run right now."""
    return {os.stat(f"/proc/{pid}").st_uid for pid in processes_of(state)}


def children() -> list[str]:
    """Return the pids of this thread's children, in order; pytest's own fixtures have some."""
    return sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Wait until a callable returns something true; False at the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
