"""The light NamedTuple behaves as typing's where the program relies on it."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.record import NamedTuple


class Point(NamedTuple):
    """Two fields, one with a default, and what a class body may have besides."""

    x: int
    y: int = 7

    @property
    def total(self) -> int:
        return self.x + self.y

    def __str__(self) -> str:
        return f"<{self.x} {self.y}>"


def test_fields_are_given_by_place_by_name_and_by_default() -> None:
    assert [tuple(point) for point in (Point(1, 2), Point(1), Point(1, y=2), Point(y=2, x=1))] == [(1, 2), (1, 7), (1, 2), (1, 2)]


@given(st.integers(), st.integers())
def test_record_is_the_tuple_of_its_fields(x: int, y: int) -> None:
    point = Point(x, y)
    first, second = point
    assert (point.x, point.y, first, second, point) == (x, y, x, y, (x, y))
    assert hash(point) == hash((x, y))


def test_body_keeps_its_methods() -> None:
    assert (Point(1).total, str(Point(1)), repr(Point(1))) == (8, "<1 7>", "Point(x=1, y=7)")


def test_replace_makes_another_one() -> None:
    point = Point(1)
    assert (point._replace(y=3), point) == ((1, 3), (1, 7))
    assert Point._make([4, 5])._asdict() == {"x": 4, "y": 5}


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1, 2), {"y": 3}), ((1,), {"x": 3}), ((1,), {"z": 3})])
def test_wrong_fields_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*values, **named)


def test_replace_of_no_field_is_refused() -> None:
    with pytest.raises(TypeError, match="z"):
        Point(1)._replace(z=1)  # type: ignore[call-arg]


def test_fields_cannot_be_assigned() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Point(1).z = 2  # type: ignore[attr-defined]


def test_copies_are_equal() -> None:
    assert (copy.copy(Point(1)), copy.deepcopy(Point(1))) == ((1, 7), (1, 7))
    assert type(copy.deepcopy(Point(1))) is Point
