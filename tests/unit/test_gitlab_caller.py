"""The runner is found as what two calls of a driver have in common, whatever stands between."""

import json
import os
import subprocess
import sys

from runner.adapters.gitlab import caller
from runner.kernel import process
from tests.support.engine import TREE

_TELL = "import json; from runner.adapters.gitlab import caller; print(json.dumps(caller.ancestors()))"


def _chain_of(*wrapper: str) -> tuple[tuple[int, int], ...]:
    """Return the ancestors that a program sees which was started by us, behind a wrapper."""
    argv = [*wrapper, sys.executable, "-c", _TELL]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(TREE)}, capture_output=True, text=True, check=True)
    return tuple((pid, started) for pid, started in json.loads(done.stdout))


def _ourselves() -> tuple[int, int]:
    return os.getpid(), process.start_time(os.getpid())


def test_chain_begins_with_the_parent() -> None:
    assert _chain_of()[0] == _ourselves()


def test_wrapper_stands_between() -> None:
    chain = _chain_of("sh", "-c", '"$@"; exit $?', "wrapper")
    assert chain[0] != _ourselves()
    assert chain[1] == _ourselves()


def test_two_calls_behind_wrappers_have_the_runner_in_common() -> None:
    wrapper = ("sh", "-c", '"$@"; exit $?', "wrapper")
    assert caller.nearest_common(caller.write(_chain_of(*wrapper)), _chain_of(*wrapper)) == _ourselves()


def test_process_with_the_same_number_is_not_the_same() -> None:
    assert caller.nearest_common("10:1,20:1", ((10, 2), (20, 1))) == (20, 1)


def test_nothing_in_common_is_nobody() -> None:
    assert caller.nearest_common("", ((10, 2),)) == (0, 0)
    assert caller.nearest_common("10:1", ()) == (0, 0)


def test_process_has_ended_once_it_is_gone_and_not_before() -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process.start_time(child.pid)
    assert not process.has_ended(child.pid, started)
    assert process.has_ended(child.pid, started + 1)
    child.kill()
    child.wait()
    assert process.has_ended(child.pid, started)


def test_process_of_another_user_has_not_ended() -> None:
    assert not process.has_ended(1, process.start_time(1))
