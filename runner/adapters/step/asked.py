"""What `dockless step` was asked for, and which part of that makes a container of its own."""

from __future__ import annotations

from runner.model import Limits
from runner.record import NamedTuple


class Service(NamedTuple):
    """A service beside the steps, under the name by which they reach it."""

    image: str
    alias: str


class Asked(NamedTuple):
    """One call; "" and empty mean what the image or the configuration says."""

    image: str = ""
    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    volumes: tuple[str, ...] = ()  # as written, besides the runner's own directories
    cwd: str = ""  # "" is where the runner starts the step
    user: str = ""
    network: str = ""  # "default" or "none"
    pull: str = ""
    limits: Limits = Limits()
    init: bool = False
    hostname: str = ""
    build_user: str = ""  # "" is the repository's
    platform: str = ""
    docker: bool = False
    services: tuple[Service, ...] = ()
    service_env: tuple[tuple[str, str], ...] = ()  # of every service
    tools: str = ""  # "rw": the tool cache can be written to
    end: bool = False  # end the job's containers, and nothing else

    def container(self) -> Asked:
        """Return what the container depends on: steps that differ in the rest share one."""
        return self._replace(argv=(), env=(), cwd="", pull="", end=False)
