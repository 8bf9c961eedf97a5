"""podman as a peer: rootless, over native overlay, with a store of its own (events go to a file: with none, 4.3 waits 20 s for an exit).

The monitor of what its API executed ends after a second, not after five minutes.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from benchmarks import processes
from runner.kernel import accounts, files, userns
from runner.sandbox import build_users

_STORAGE = """[storage]
driver = "overlay"
rootless_storage_path = "{root}/graph"
runroot = "{root}/run"
"""
_ENGINE = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
exit_command_delay = 1
[network]
network_config_dir = "{runtime}/networks"
"""


class Podman:
    """One store of podman's and what runs in it; all is removed at the end."""

    name = "podman"

    def __init__(self, directory: Path) -> None:
        root = directory / "podman"
        root.mkdir(mode=0o700)
        # podman's own clean-up refuses a path of more than 50 characters, and `podman run` then waits 20 s for an exit code
        self._runtime = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        (root / "storage.conf").write_text(_STORAGE.format(root=root))
        # podman lays a directory of its own over /var/lib when it makes the network of rootless containers, and then finds nothing below
        (root / "containers.conf").write_text(_ENGINE.format(runtime=self._runtime))
        (root / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._root = root
        self.environ = {
            "PATH": os.environ["PATH"], "HOME": str(root), "XDG_RUNTIME_DIR": str(self._runtime), "TMPDIR": str(root),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"), "CONTAINERS_CONF": str(root / "containers.conf"),
        }  # fmt: skip

    def __enter__(self) -> "Podman":
        return self

    def __exit__(self, *_: object) -> None:
        self.run("rm", "--force", "--time", "0", "--all", check=False)
        self.run("system", "migrate", check=False)  # ends the pause process
        for pid in processes.naming(str(self._runtime)):
            os.kill(pid, signal.SIGTERM)  # the way out of networks that were made and removed, which 4.3 leaves running
        # layers belong to subordinate ids
        userns.call(build_users.every_map(accounts.current()), lambda: files.remove_tree(str(self._root)))
        shutil.rmtree(self._runtime)

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line of podman's."""
        return ["podman", *arguments]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command of podman's and return what it printed."""
        done = subprocess.run(self.argv(*arguments), env=self.environ, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise SystemExit(f"podman {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def pull_argv(self, image: str) -> list[str]:
        """Return the command line that pulls from a registry on loopback, which speaks http."""
        return self.argv("pull", "--quiet", "--tls-verify=false", image)

    def remove_argv(self, container: str) -> list[str]:
        """Return the command line that ends a container at once and removes it: without a time it waits 10 s for one like `sleep`."""
        return self.argv("rm", "--force", "--time", "0", container)

    def image_of(self, image: str) -> str:
        """Return what this peer calls an image of the loopback registry."""
        return image

    def forget(self) -> None:
        """Remove every image."""
        self.run("rmi", "--all", "--force")

    def version(self) -> str:
        """Return "podman version …"."""
        return self.run("--version")
