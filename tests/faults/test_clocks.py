"""Clocks that jump by a day, forth or back: rights are asked about again, and nothing goes that is not old."""

import sys
from collections.abc import Iterator

import pytest

from tests.support import faults
from tests.support.defences import attack, without
from tests.support.engine import Engine
from tests.support.gitlab_jobs import GitLab, job
from tests.support.images import build_image, busybox_layer
from tests.support.registries import LyingRegistry, Request

_DAY_S = 86400
# the program as it is, on a machine with another time; what the kernel writes (a file's times) is of the old one, as after a jump
_JUMPED = "import time; real = time.time; time.time = lambda: real() + {seconds}; from runner.__main__ import main; main()"


@pytest.fixture
def asked(gitlab: GitLab) -> Iterator[tuple[str, list[Request]]]:
    """Serve an image, which is stored once and remembered for an hour; yields its name and what the registry was asked."""
    registry = LyingRegistry()
    registry.add(build_image([busybox_layer()]), "team/app")
    with registry.running() as (host, seen):
        gitlab.configure(
            registries={host: {"plain_http": True}},
            images={"pull_policy": ["if-not-present"], "access_ttl": "1h"},
            gc={"volumes_max_age": "2d", "storage_max_age": "2d"},
        )
        yield f"{host}/team/app", seen


def jump(engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Have every command from now on be called at another time."""
    monkeypatch.setattr(engine, "argv", lambda *words: [sys.executable, "-c", _JUMPED.format(seconds=seconds), *_plain(engine, *words)])


def _plain(engine: Engine, *words: str) -> list[str]:
    return Engine.argv(engine, *words)[3:]


@attack(
    51,
    without("runner/image/grants.py", "0 <= now - entry[3] < ttl_s", "now - entry[3] < ttl_s"),
    without("runner/image/grants.py", "0 <= now - entry[3] < ttl_s", "0 <= now - entry[3]"),
    without("runner/job/gc_plan.py", "if age and now - each.last_used > age:", "if age:"),
)
@pytest.mark.parametrize("seconds", [_DAY_S, -_DAY_S])
def test_clock_that_jumps_by_a_day_opens_nothing_and_loses_nothing(
    gitlab: GitLab, asked: tuple[str, list[Request]], monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    image, seen = asked
    played = gitlab.play(job("echo kept > /cache/kept", image=image))
    assert played.status == "success", played.log.decode()
    leases = faults.leases(gitlab.engine)
    seen.clear()
    assert gitlab.play(job("cat /cache/kept", image=image)).status == "success"
    assert seen == []  # remembered

    with monkeypatch.context() as patched:
        jump(gitlab.engine, patched, seconds)
        played = gitlab.play(job("cat /cache/kept", image=image))
        assert (played.status, "kept\n" in played.log.decode()) == ("success", True)
        assert {request.method for request in seen} == {"HEAD"}
        for command in ("gc", "df"):
            result = gitlab.engine.run(command)
            assert (result.code, result.err) == (0, ""), result

    played = gitlab.play(job("cat /cache/kept", image=image))
    assert (played.status, "kept\n" in played.log.decode()) == ("success", True)
    assert faults.leases(gitlab.engine) == leases
    assert faults.half_written(gitlab.engine) == []
