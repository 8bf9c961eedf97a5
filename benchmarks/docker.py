"""dockerd as a peer: Debian's, in its rootless mode, with a data directory of its own; it may not start everywhere."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from benchmarks import processes
from runner.kernel import accounts, files, userns
from runner.sandbox import build_users

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # Debian's docker, whatever else /usr/local has
CLIENT, _DAEMON = "/usr/bin/docker", "/usr/sbin/dockerd"
_START_S = 20.0
# the address of the host's loopback as slirp4netns shows it
_HOST = "10.0.2.2"
_START = """rm -f /run/docker /run/containerd /run/xtables.lock
exec "$0" --rootless --data-root "$1/data" --exec-root "$1/run/exec" --pidfile "$1/run/pid" --host "unix://$1/run/docker.sock" \\
    --storage-driver overlay2 --insecure-registry "$2/32"
"""


class NotStarted(Exception):
    """dockerd is not there or does not start; the text says why."""


class Docker:
    """A rootless dockerd, running until the end of the block. Raises NotStarted on entering."""

    name = "docker"

    def __init__(self, directory: Path) -> None:
        self._root = directory / "docker"
        self._daemon: subprocess.Popen[bytes] | None = None
        self.environ = {
            "PATH": _PATH, "HOME": str(self._root), "XDG_RUNTIME_DIR": f"{self._root}/run", "DOCKER_HOST": f"unix://{self._root}/run/docker.sock",
        }  # fmt: skip

    def __enter__(self) -> "Docker":
        for program in ("rootlesskit", CLIENT, _DAEMON):
            if not shutil.which(program, path=_PATH):
                raise NotStarted(f"there is no {program}")
        (self._root / "run").mkdir(parents=True, mode=0o700)
        try:
            self.start()
        except NotStarted:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # its data belongs to subordinate ids
        userns.call(build_users.every_map(accounts.current()), lambda: files.remove_tree(str(self._root)))

    def start(self) -> float:
        """Start the daemon over what it has stored and return the seconds until it has answered its first client. Raises NotStarted."""
        argv = [
            "rootlesskit", f"--state-dir={self._root}/run/rootlesskit", "--net=slirp4netns", "--copy-up=/etc", "--copy-up=/run",
            "sh", "-c", _START, _DAEMON, str(self._root), _HOST,
        ]  # fmt: skip
        began = time.perf_counter()
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(argv, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while time.perf_counter() < began + _START_S and self._daemon.poll() is None:
            # it listens long before it answers: a client that asks too early is one too many
            if self._listens() and self._answers():
                return time.perf_counter() - began
            time.sleep(0.002)
        words = self._log.read_text(errors="replace").strip().splitlines()
        raise NotStarted(f"dockerd does not start here: {words[-1] if words else 'it says nothing'}")

    def stop(self) -> None:
        """End the daemon; what it has stored stays."""
        if self._daemon:
            for number in (signal.SIGTERM, signal.SIGKILL):
                self._daemon.send_signal(number)
                try:
                    self._daemon.wait(20)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._daemon = None

    def processes(self) -> set[int]:
        """Return the pids of the daemon, of what it has started and of what makes its namespaces."""
        return processes.with_descendants([self._daemon.pid] if self._daemon else [])

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self.environ["DOCKER_HOST"].removeprefix("unix://")) == 0

    def _answers(self) -> bool:
        return subprocess.run(self.argv("version"), env=self.environ, capture_output=True, check=False).returncode == 0

    @property
    def _log(self) -> Path:
        return self._root / "log"

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line of docker's."""
        return [CLIENT, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command of docker's that must succeed and return what it printed."""
        done = subprocess.run(self.argv(*arguments), env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def pull_argv(self, image: str) -> list[str]:
        """Return the command line that pulls from a registry on the host's loopback."""
        return self.argv("pull", "--quiet", self.image_of(image))

    def remove_argv(self, container: str) -> list[str]:
        """Return the command line that ends a container at once and removes it."""
        return self.argv("rm", "--force", container)

    def image_of(self, image: str) -> str:
        """Return what this peer calls an image of the loopback registry: it is in a network of its own."""
        host, _, rest = image.partition("/")
        return f"{_HOST}:{host.rpartition(':')[2]}/{rest}"

    def version(self) -> str:
        """Return "docker version …"."""
        return f"docker version {self.run('version', '--format', '{{.Server.Version}}')}"
