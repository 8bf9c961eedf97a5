"""The virtual machine of `./dev vm`, as far as it can be told without starting it."""

from pathlib import Path

import pytest

from tests.support import vm

TREE = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ([], None),
        ([b"10 passed\n"], None),
        ([b"10 passed\r\n", b"guest: exit 0\r\n"], 0),
        ([b"1 failed\n", b"guest: exit 1\n"], 1),
    ],
)
def test_verdict_is_what_the_guest_says_last_and_nothing_else(
    said: list[bytes], verdict: int | None, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert vm.show(said) == verdict
    assert capfdbinary.readouterr().out == b"".join(line.replace(b"\r", b"") for line in said if b"exit" not in line)


def test_every_test_of_the_guest_is_named_by_its_script() -> None:
    script = (TREE / "tests/vm/guest.sh").read_text()
    assert [path.name for path in (TREE / "tests/vm").glob("test_*.py") if f"tests/vm/{path.name}" not in script] == []
