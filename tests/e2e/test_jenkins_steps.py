"""Many `sh` steps in one container: each has its result, and none leaves a process behind, neither a dead one nor a living one.

DOCKLESS_SOAK_STEPS says how many there are; issue 6 asks for 1,000.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_shim import Agent, Step, install
from tests.support.engine import Engine, processes_of, wait_until

STEPS = int(os.environ.get("DOCKLESS_SOAK_STEPS", "40"))
_AT_ONCE = 4
# leaves an orphan that ends later: nobody but PID 1 can wait for it
_SCRIPT = "(sleep 0.2 & true); exit {code}"


@pytest.fixture
def agent(engine: Engine, tmp_path: Path) -> Agent:
    return install(engine, tmp_path)


@pytest.fixture
def block(agent: Agent) -> Iterator[str]:
    container = agent.inside("toolbox")
    yield container
    agent.end(container)


def _states(agent: Agent, container: str) -> list[str]:
    """Return the state of each process of the container, as proc(5) has it."""
    return [line.split()[1] for line in agent.answer("top", container, "-eo", "pid,stat").splitlines()[1:]]


def test_steps_leave_no_zombie_and_no_process(agent: Agent, block: str) -> None:
    before = (_states(agent, block), len(processes_of(agent.engine.state)))
    codes: dict[int, str] = {}
    most_dead: list[int] = []

    def play(first: int) -> None:
        for number in range(first, STEPS, _AT_ONCE):
            step = Step(agent.temporary / f"durable-{number:08x}")
            begun = step.begin(agent, block, _SCRIPT.format(code=number % 200))
            assert begun.code == 0, begun
            assert wait_until(step.result.exists, 60)
            codes[number] = step.result.read_text()
            if number % 50 == 0:
                most_dead.append(_states(agent, block).count("Z"))

    threads = [threading.Thread(target=play, args=(first,)) for first in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: f"{number % 200}\n" for number in range(STEPS)}
    # the touching of a step's log goes on for up to 3 s after it, and what has just ended may not be reaped yet
    assert wait_until(lambda: (_states(agent, block), len(processes_of(agent.engine.state))) == before, 60), _states(agent, block)
    assert max(most_dead) <= 2 * _AT_ONCE
    print(f"{STEPS} steps: {before[0]} before and after; at most {max(most_dead)} dead at one moment, {before[1]} processes in all")
