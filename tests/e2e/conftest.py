"""An engine of its own for every test, and the proof that the test left nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import paths
from runner.job import cleanup, state
from runner.kernel import accounts
from tests.support.engine import Engine, processes_of, wait_until


def _mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Yield an engine over an empty store; afterwards no job, process or mount of it may be left."""
    assert os.geteuid() != 0, "the engine is never tested as root: use ./dev test"
    engine = Engine(tmp_path_factory.mktemp("e"))
    mounts = _mounts()
    yield engine
    try:
        assert engine.jobs() == []
        assert wait_until(lambda: not processes_of(engine.state), 15), [
            Path(f"/proc/{p}/cmdline").read_bytes() for p in processes_of(engine.state)
        ]
        assert _mounts() == mounts
    finally:
        _erase(engine)


def _erase(engine: Engine) -> None:
    """Remove the store, also after a failed test: containers of build users own parts of it."""
    store = paths.Store(str(engine.state))
    account = accounts.current()
    for key in state.keys(store):
        cleanup.cleanup(store, key, account)
    engine.run("gc")
    shutil.rmtree(engine.state, ignore_errors=True)
