"""dockless as it is measured: the program as people start it, over a state directory of the benchmark's own."""

import json
import os
import re
import subprocess
from pathlib import Path

from benchmarks.measure import timed
from runner import paths
from runner.image import views
from runner.kernel import accounts, files, userns
from runner.model import BuildUser
from runner.sandbox import build_users
from tests.support.gitlab_replay import Replay, job_payload

_PULL_S = 300.0
# a registry is asked at every job by default; podman run does not ask either
_CONFIG = "images: {pull_policy: [if-not-present]}\n"
NO_DOCKER = '"off"'  # in YAML, as all that is said of Docker here


def docker_by(engine: str) -> str:
    """Return what a configuration says that gives every job a Docker API, served by `engine`."""
    return f"{{mode: provide, engine: {engine}}}"


class Dockless:
    """One program and one state directory, in which root may have set up that all build users share one copy of every layer."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.state = program, directory / "state"
        self._directory = directory
        self._store = paths.Store(str(self.state))
        self._began_shared = self.is_shared()
        self._configs: dict[str, Path] = {}  # by what they say of Docker
        # by the environment, and without a configuration for what a person starts: what it costs to read one is nobody's default
        self.environ = {**os.environ, "DOCKLESS_STATE": str(self.state)}

    def __enter__(self) -> "Dockless":
        return self

    def __exit__(self, *_: object) -> None:
        """Empty the state directory, which belongs to many ids."""
        account = accounts.current()

        def remove() -> None:
            for name in os.listdir(self.state):
                files.remove_tree(f"{self.state}/{name}")

        if self.state.exists():
            userns.call(build_users.every_map(account), remove)

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line."""
        return [self.program, *arguments]

    def one_off(self, image: str, *options: str) -> float:
        """Run `true` in a new container of a stored image and return the seconds."""
        argv = self.argv("run", "--pull", "never", *options, "--image", image, "--", "true")
        return timed(argv, self.environ, longest_s=_PULL_S)

    def command(self, *arguments: str) -> str:
        """Run a command that must succeed and return what it printed."""
        done = subprocess.run(self.argv(*arguments), env=self.environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"dockless {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def is_shared(self) -> bool:
        """Tell whether all build users share one copy of every layer, as they do after `dockless setup`."""
        slices = build_users.available(accounts.current())
        return len(slices) > 1 and views.place(self._store, BuildUser("some", 1, *slices[1]).isolated_map()).is_shared

    def still_shared(self) -> bool:
        """Tell the same, and end if it was true at first only: what would be measured now is another thing."""
        if self._began_shared and not self.is_shared():
            raise SystemExit(f"the views of {self._store.layers} have gone while the benchmark ran")
        return self._began_shared

    def pull(self, image: str) -> float:
        """Bring an image, unpacked and ready for its first container, and return the seconds."""
        return timed(self.argv("pull", image), self.environ, longest_s=_PULL_S)

    def forget(self) -> None:
        """Remove every image with its blobs and layers."""
        names = [line.split()[0] for line in self.command("images").splitlines()[1:]]
        if names:
            self.command("rmi", *names)
        maps = [entry.path for entry in os.scandir(self._store.layers) if entry.is_dir()]
        left = [name for path in (self._store.blobs, *maps) for name in os.listdir(path) if _is_content(name)]
        if left:
            raise SystemExit(f"after `dockless rmi` of all images {', '.join(left)} are still there: a cold pull cannot be measured")

    def disk_usage(self) -> int:
        """Return the bytes that the state directory occupies, whoever owns them."""
        account = accounts.current()
        used: int = userns.call(build_users.every_map(account), lambda: files.disk_usage(str(self.state)))
        return used

    def replay(self, image: str, *, project: int, slot: int = 0, docker: str = "") -> Replay:
        """Return a GitLab job without sources that gitlab-runner would call this program for; its image is stored.

        `docker` is what the configuration says of Docker, in YAML: "" for nothing.
        """
        config = self._configured(docker)
        driver = {verb: self.argv("--config", config, "gitlab", verb) for verb in ("config", "prepare", "run", "cleanup")}
        payload = job_payload(
            image={"name": image},
            variables={"GIT_STRATEGY": "none", "CI_PROJECT_ID": str(project)},
            job_info={"name": "test", "stage": "test", "project_id": project, "project_name": f"project-{project}"},
        )
        return Replay(driver, payload, env=self.environ, concurrent=(slot, slot))

    def configured_argv(self, *arguments: str) -> list[str]:
        """Return a command line with the configuration that CI jobs have here."""
        return self.argv("--config", self._configured(""), *arguments)

    def _configured(self, docker: str) -> str:
        if docker not in self._configs:
            # a file each: the parsed form of one is kept as long as it is the same
            path = self._configs[docker] = self._directory / f"config{len(self._configs)}.yaml"
            path.write_text(_CONFIG + (f"docker: {docker}\n" if docker else ""))
        return str(self._configs[docker])

    def keepers(self) -> list[int]:
        """Return the pids of the keepers of all jobs; everything else of a job is below its keeper."""
        return [int(job["keeper"]) for job in json.loads(self.command("ps", "--json"))]


def _is_content(name: str) -> bool:
    """Tell whether a name is that of a blob or a layer, and not of what is written about them."""
    return re.fullmatch("c?[0-9a-f]{24,64}", name) is not None
