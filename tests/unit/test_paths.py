"""Names on disk: nothing that comes from outside can lead anywhere else."""

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import paths

STORE = paths.Store("/state")
HOSTILE = ["", ".", "..", "../x", "a/b", "/abs", ".hidden", "a\nb", "a\n", "a b", "a\0b", "é", "-x", "a:b", "a,b", "x" * 201]
OPERATIONS: list[Callable[[str], str]] = [
    STORE.layer_map,
    STORE.layer_map_lock,
    STORE.job,
    STORE.job_lock,
    STORE.job_state,
    lambda name: STORE.container("key", name),
    lambda name: STORE.job_log("key", name),
    lambda name: STORE.job_volume("key", name),
    lambda name: STORE.build_user_volume("user", 0, name),
    lambda name: STORE.build_user_volume(name, 0, "volume"),
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_hostile_names_are_refused_everywhere(operation: Callable[[str], str], name: str) -> None:
    with pytest.raises(ValueError, match="safe"):
        operation(name)


@given(st.text(max_size=20))
def test_a_component_is_never_more_than_one_name(name: str) -> None:
    try:
        path = f"/base/{paths.component(name)}"
    except ValueError:
        return
    assert os.path.normpath(path) == path
    assert os.path.dirname(path) == "/base"


def test_a_job_cannot_be_named_like_the_lock_of_another() -> None:
    with pytest.raises(ValueError, match="safe"):
        STORE.job("a.lock")
    with pytest.raises(ValueError, match="safe"):
        STORE.layer_map("s200000.lock")


def test_directories_come_after_their_parents_and_hold_what_lies_in_them() -> None:
    made = STORE.directories()
    for number, directory in enumerate(made[1:], start=1):
        assert os.path.dirname(directory) in made[:number]
    for path in (STORE.blob("sha256:ab"), STORE.partial_blob("sha256:ab"), STORE.job("k"), STORE.layer_map("m"), STORE.build_users):
        assert os.path.dirname(path) in made


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "/home/ci/.local/share/dockless"),
        ({"XDG_DATA_HOME": "/data"}, "/data/dockless"),
        ({"XDG_DATA_HOME": "relative"}, "/home/ci/.local/share/dockless"),
        ({"XDG_DATA_HOME": ""}, "/home/ci/.local/share/dockless"),
    ],
)
def test_state_directory_follows_the_xdg_specification(environ: dict[str, str], expected: str) -> None:
    assert paths.state_directory("/home/ci", environ) == expected
