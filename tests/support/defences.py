"""Which case of the threat model a test attacks, and what has to be taken out of the product for the attack to get through.

A test without a way to fail proves nothing, so each names one: `./dev prove` takes the defence out of a copy of the tree, runs the test
there and wants it to fail. `tests/unit/test_defences.py` holds that every case has a test and that every defence is still there to be
taken out.

    @attack(7, without("runner/sandbox/users.py", "_regular(entry)", "True"))
    def test_fifo_at_etc_passwd_does_not_hang_the_start() -> None: ...
"""

from typing import NamedTuple

import pytest

# what each case tries, in the order of contracts/security.md D4
CASES = {
    1: "names in a layer that lead out of it",
    2: "writing through a symbolic link of the same layer",
    3: "writing through a symbolic link of the layer below",
    4: "hard links to somewhere else",
    5: "a directory that becomes a link, and one again",
    6: "odd whiteouts, and overlay attributes that the image brings",
    7: "devices, FIFOs and sockets in a layer",
    8: "setuid files and file capabilities",
    9: "an image whose `/dev`, `/proc`, `/sys` … are links",
    10: "bombs: compressed, sparse, endless headers, sizes that overflow",
    11: "a million files, paths of 10,000 parts, names that are no text",
    12: "ids out of range",
    13: "layers that are cut off, damaged, or of an unknown kind",
    14: "blobs that are not what was announced",
    15: "digests that are none",
    16: "manifests that are two things at once",
    17: "endless, nested and huge indexes",
    18: "layers that lie at another address",
    19: "token services at addresses that are not the registry's",
    20: "redirects that take credentials along",
    21: "pushes that are sent elsewhere",
    22: "another tenant's private image in the store",
    23: "tags that move, and the wrong platform",
    24: "image configurations that ask for the host",
    25: "a fork bomb",
    26: "taking all memory",
    27: "filling the disk",
    28: "killing everything that can be seen",
    29: "processes that will not go",
    30: "looking into processes and the kernel",
    31: "another tenant's files and processes",
    32: "sockets and loopback services of the host",
    33: "metadata services and private networks",
    34: "sockets of engines, agents and buses",
    35: "kernel keyrings",
    36: "system calls that attacks on the kernel begin with",
    37: "typing into a terminal",
    38: "remounting, unmounting, and writing to our programs",
    39: "logs that lie, overflow or leak",
    40: "holding the log open after the end",
    41: "leaving the control group",
    42: "mounts of the host",
    43: "variables as paths and words",
    44: "image names that are something else",
    45: "aliases that take another's name",
    46: "builds that reach out of their context",
    47: "killed in every phase",
    48: "a disk that fails or is full",
    49: "registries that fail",
    50: "damage on the disk",
    51: "a clock that jumps",
    52: "many at once, and none left",
    53: "power loss",
    54: "a reboot with old state, and a pid that is another's",
}


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
        raise ValueError(f"case {case}: from 1 to {max(CASES)}, with what takes the defence out")
    return pytest.mark.attack(cases=(case, *more), taken_out=taken_out)
