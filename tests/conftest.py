"""What holds for every test."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runner import log
from runner.kernel import accounts, files, userns
from runner.sandbox import build_users

# not found unless they are named: root's tests of a whole machine, which run in the guest of ./dev vm, and those of ./dev live, for
# programs that a machine need not have; so nothing is skipped elsewhere
collect_ignore = ["vm", "live"]

pytest_plugins = ["tests.support.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks of tests."""
    config.addinivalue_line("markers", "attack(cases, taken_out): attacks cases of the threat model (tests.support.defences)")


# no example database, because the tree may be read-only; no deadline, because the machine may be busy
settings.register_profile("dockless", database=None, deadline=None)
settings.load_profile("dockless")


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the session's directories: what build users own there, pytest could not, and would complain at the end of a later session."""
    yield
    directory = str(tmp_path_factory.getbasetemp())

    def remove() -> None:
        for name in os.listdir(directory):
            files.remove_tree(f"{directory}/{name}")

    account = accounts.current()
    if build_users.available(account):
        userns.call(build_users.every_map(account), remove)


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """Forget what a test had masked: each one is a process of its own, as commands are."""
    yield
    log._voice.secrets = ()


@pytest.fixture
def probe() -> Iterator[Path]:
    """A directory of the host in which anybody may do anything, and that everybody can get to: what an attack would change."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        (path / "file").write_text("untouched")
        (path / "file").chmod(0o666)
        yield path
