"""Every target eats its corpus, and a few inputs that are near to it or near to nothing. Always the same ones: a red run is red again."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.kernel import userns
from tests.fuzz import targets
from tests.support import trees

_EXAMPLES = 60
_LONGEST = 4096


def as_it_must(name: str, function: Callable[[], None]) -> None:
    """Run a function where a target has to: in the middle of the tests, or as root of a user namespace."""
    if name in targets.IN_NAMESPACE:
        userns.call(trees.isolated(), function)
    else:
        function()


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Make an input out of a target's seeds: pieces of one are replaced by bytes, or by a piece of another."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        other = draw(st.sampled_from(seeds))
        start = draw(st.integers(0, len(other)))
        piece = draw(st.one_of(st.binary(max_size=12), st.just(other[start : start + 40])))
        data[at : at + length] = piece
    return bytes(data)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_corpus_of_each_target_passes(name: str) -> None:
    def replay() -> None:
        for seed in targets.seeds(name):
            targets.TARGETS[name](seed)

    assert targets.seeds(name)
    as_it_must(name, replay)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_is_near_to_the_corpus_passes(name: str) -> None:
    seeds = targets.seeds(name)
    inputs: Any = st.one_of(changed(seeds), changed(seeds), st.binary(max_size=_LONGEST))

    @settings(
        max_examples=_EXAMPLES, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )  # fmt: skip
    @given(inputs)
    def eat(data: bytes) -> None:
        targets.TARGETS[name](data)

    as_it_must(name, eat)


def test_every_corpus_has_its_target_and_stays_small() -> None:
    assert sorted(path.name for path in targets.CORPUS.iterdir()) == sorted(targets.TARGETS)
    for name in targets.TARGETS:
        assert sum(len(seed) for seed in targets.seeds(name)) < 64 * 1024, name
