"""podman as a peer: rootless, over native overlay, with a store of its own (events go to a file: with none, 4.3 waits 20 s for an exit)."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_STORAGE = """[storage]
driver = "overlay"
graphroot = "{root}/graph"
runroot = "{root}/run"
"""
_ENGINE = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
"""


class Podman:
    """One store of podman's and one container that runs in it; both are removed at the end."""

    container = "bench"

    def __init__(self, directory: Path) -> None:
        root = directory / "podman"
        root.mkdir(mode=0o700)
        # podman's own clean-up refuses a path of more than 50 characters, and `podman run` then waits 20 s for an exit code
        self._runtime = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        (root / "storage.conf").write_text(_STORAGE.format(root=root))
        (root / "containers.conf").write_text(_ENGINE)
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
        # layers belong to subordinate ids: only podman's own namespace may remove them
        self.run("unshare", "rm", "-rf", str(self._root / "graph"), check=False)
        self.run("system", "migrate", check=False)  # ends the pause process
        for path in (self._root, self._runtime):
            shutil.rmtree(path, ignore_errors=True)

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line of podman's."""
        return ["podman", *arguments]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command of podman's and return what it printed."""
        done = subprocess.run(self.argv(*arguments), env=self.environ, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise SystemExit(f"podman {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def image_id(self) -> str:
        """Return the id of the one image."""
        return self.run("images", "--quiet").splitlines()[0]

    def start(self, image: str) -> None:
        """Start the container that exec goes to."""
        self.run("run", "--detach", "--name", self.container, image, "sleep", "3600")

    def version(self) -> str:
        """Return "podman version …"."""
        return self.run("--version")
