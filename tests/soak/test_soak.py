"""A soak of a dozen jobs: as the long one, which `./dev soak` runs."""

from pathlib import Path

import pytest

from tests.soak import soak
from tests.support.fixtures import erase


@pytest.mark.timeout(300)  # about 20 s where nothing else runs
def test_jobs_side_by_side_leave_nothing_and_do_not_hurt_each_other(tmp_path: Path) -> None:
    shop = soak.workshop(tmp_path / "soak")
    try:
        summary = soak.run(shop, count=12, seconds=60, seed=7, together=3, attacked=0.4)
    finally:
        erase(shop.engine)
    assert (summary["jobs"], summary["errors"], summary["leftovers"]) == (12, [], [])
    assert summary["attacked"]
