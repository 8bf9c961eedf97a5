"""An engine of its own for every test that asks for one, and the proof that the test left nothing."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import paths
from runner.job import cleanup, state
from runner.kernel import accounts
from tests.support import docker_images, docker_jobs
from tests.support.docker_jobs import DockerJobs
from tests.support.engine import Engine, wait_until
from tests.support.gitlab_jobs import GitLab


def _mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Yield an engine over an empty store; afterwards no job, process, mount or network device of it may be left."""
    assert os.geteuid() != 0, "the engine is never tested as root: use ./dev test"
    engine = Engine(tmp_path_factory.mktemp("e"))
    mounts, devices = _mounts(), os.listdir("/sys/class/net")
    yield engine
    try:
        assert wait_until(lambda: engine.leftovers() == [], 15), engine.leftovers()
        assert _mounts() == mounts
        assert os.listdir("/sys/class/net") == devices
    finally:
        erase(engine)


@pytest.fixture
def gitlab(engine: Engine, tmp_path: Path) -> GitLab:
    """Return a runner whose custom executor is the engine."""
    temporary = tmp_path / "runner"
    temporary.mkdir()
    return GitLab(engine, temporary)


@pytest.fixture(scope="session")
def docker_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve what docker.io would, to this machine and to its jobs; yields host:port."""
    with docker_images.hub(tmp_path_factory.mktemp("hub")) as host:
        yield host


@pytest.fixture
def docker_job(engine: Engine, docker_hub: str) -> Callable[[str], DockerJobs]:
    """Return a function from an engine's name (podman or dockerd) to one-off jobs with its API."""
    return lambda api: docker_jobs.make(engine, api, docker_hub)


@pytest.fixture(params=docker_jobs.ENGINES)
def jobs(request: pytest.FixtureRequest, docker_job: Callable[[str], DockerJobs]) -> DockerJobs:
    """Return one-off jobs with the API of each engine."""
    return docker_job(request.param)


def erase(engine: Engine) -> None:
    """Remove the store, also after a failed test: containers of build users own parts of it."""
    store = paths.Store(str(engine.state))
    account = accounts.current()
    for key in state.keys(store):
        cleanup.cleanup(store, key, account)
    engine.run("gc")
    shutil.rmtree(engine.state, ignore_errors=True)
