"""Which case of the threat model a test attacks, and what has to be taken out of the product for the attack to get through.

A test without a way to fail proves nothing, so each names one: `./dev prove` takes the defence out of a copy of the tree, runs the test
there and wants it to fail. `tests/unit/test_defences.py` holds that every case has a test and that every defence is still there to be
taken out.

    @attack(7, without("runner/sandbox/users.py", "_regular(entry)", "True"))
    def test_fifo_at_etc_passwd_does_not_hang_the_start() -> None: ...
"""

from typing import NamedTuple

import pytest

CASES = range(1, 55)


class Edit(NamedTuple):
    """A piece of the product's source that is a defence, or a part of one, and what stands there once it is taken out."""

    file: str  # below the tree
    defence: str  # occurs once in the file
    instead: str


def without(*edit: str) -> tuple[Edit, ...]:
    """Return what takes one defence out: file, text and what replaces it, once or again for a defence that has several lines of retreat."""
    if not edit or len(edit) % 3:
        raise ValueError("a defence is taken out by a file, its text and what replaces it, as often as needed")
    return tuple(Edit(*edit[at : at + 3]) for at in range(0, len(edit), 3))


def attack(case: int, *taken_out: tuple[Edit, ...], more: tuple[int, ...] = ()) -> pytest.MarkDecorator:
    """Mark a test, or each one of a parametrised test, as attacking a case (and `more` of them) of contracts/security.md D4.

    Each of `taken_out` alone makes the test fail, in one of its parameters at least.
    """
    if not taken_out or any(number not in CASES for number in (case, *more)):
        raise ValueError(f"case {case}: from 1 to {CASES[-1]}, with what takes the defence out")
    return pytest.mark.attack(cases=(case, *more), taken_out=taken_out)
