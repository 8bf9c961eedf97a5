"""Git repositories of projects, served as plain files."""

import functools
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Repository(NamedTuple):
    """A bare repository that a plain file server can serve."""

    path: Path

    def commit(self, name: str, text: str) -> str:
        """Commit one file, a script as one that can be executed, and return the commit's id."""
        work = self.path.parent.parent / "work"
        (work / name).write_text(text)
        (work / name).chmod(0o755 if text.startswith("#!") else 0o644)
        self._git(work, "add", name)
        self._git(work, "commit", "-q", "-m", name)
        self._git(work, "push", "-q", str(self.path), "HEAD:refs/heads/main")
        self._git(self.path, "update-server-info")
        return self._git(work, "rev-parse", "HEAD").strip()

    @staticmethod
    def _git(directory: Path, *arguments: str) -> str:
        who = {f"GIT_{role}_{part}": "test@example.invalid" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **who}
        done = subprocess.run(["git", "-C", str(directory), *arguments], env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    @contextmanager
    def serving(self, address: str) -> Iterator[str]:
        """Serve it over http on an address of this machine; yields its URL."""

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
                pass

        server = http.server.ThreadingHTTPServer((address, 0), functools.partial(Handler, directory=str(self.path.parent)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}/{self.path.name}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def make(directory: Path) -> Repository:
    """Make an empty repository and its working tree below a directory."""
    served, work = directory / "served" / "project.git", directory / "work"
    for made in (served, work):
        made.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", str(served)], check=True)
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    return Repository(served)
