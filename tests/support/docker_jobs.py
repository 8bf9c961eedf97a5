"""One-off jobs with a Docker API: a script in a container, and what it printed."""

import sys
from typing import Any, NamedTuple

import yaml

from tests.support.engine import Engine, Result
from tests.support.gitlab_runner import REACHABLE

ENGINES = ("podman", "dockerd")
_LIMIT_S = 80
# options that show a job the tests' own virtual environment, where `docker` and `testcontainers` are
VENV = ("-v", f"{sys.prefix}:{sys.prefix}:ro", "-e", f"PYTHON={sys.prefix}/bin/python")


def settings(api: str, hub: str, **docker: Any) -> dict[str, Any]:
    """Return the configuration's sections for an engine (`podman` or `dockerd`) whose docker.io is the registry `hub`."""
    return {
        **REACHABLE,
        "docker": {"mode": "provide", "engine": api, **docker},
        "registries": {"docker.io": {"mirrors": [f"http://{hub}"], "mirrors_trusted": True}, hub: {"plain_http": True}},
    }


class DockerJobs(NamedTuple):
    """Jobs of one engine; `hub` is the registry that they pull from and push to."""

    engine: Engine
    api: str
    hub: str

    def run(self, script: str, *options: str, stdin: str = "") -> Result:
        """Run a script in the toolbox, which has all clients of the host; it ends at the first command that fails."""
        shell = f"exec 2>&1\nset -eu\nHUB={self.hub}\n{script}"
        limited = ["timeout", str(_LIMIT_S), "sh", "-c", shell]  # what it printed until then is worth more than a timeout of ours
        return self.engine.run("run", "--docker", *options, "--", *limited, stdin=stdin, timeout_s=_LIMIT_S + 20)

    def passes(self, script: str, *options: str) -> str:
        """Run a script that has to pass, and return what it printed."""
        result = self.run(script, *options)
        assert result.code == 0, f"{result.code}\n{result.out}\n{result.err}"
        return result.out

    def python(self, program: str, *options: str) -> str:
        """Run a Python program that has to pass, with the packages of the tests' own virtual environment; return what it printed."""
        return self.passes(f"exec $PYTHON - <<'END'\n{program}\nEND", *VENV, *options)


def make(engine: Engine, api: str, hub: str) -> DockerJobs:
    """Write the engine's configuration and return its jobs."""
    engine.config.write_text(yaml.safe_dump({**settings(api, hub), "gc": {"high": 100}}))
    return DockerJobs(engine, api, hub)
