"""What these tests leave that belongs to the slice goes at the end: pytest itself may not remove it, and would try again for ever."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.kernel import files
from tests.support import trees


@pytest.fixture(scope="session", autouse=True)
def _without_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    base = tmp_path_factory.getbasetemp()
    foreign = [
        entry.path for test in _directories(base) for entry in os.scandir(test) if entry.stat(follow_symlinks=False).st_uid != os.getuid()
    ]
    trees.in_keeper(lambda: _remove(foreign))


def _directories(base: Path) -> list[str]:
    return [entry.path for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]


def _remove(entries: list[str]) -> None:
    for entry in entries:
        files.remove_tree(entry)
