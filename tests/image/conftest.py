"""What holds for tests of images."""

from pathlib import Path

import pytest


@pytest.fixture
def probe(probe: Path) -> Path:
    """Return the probe with a directory in it."""
    (probe / "sub").mkdir()
    (probe / "sub").chmod(0o777)
    return probe
