"""Our JSON is that of the standard library, in both directions."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kernel import plain_json
from tests.support.engine import TREE

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values)
def test_what_is_written_is_what_the_standard_library_writes(value: Any) -> None:
    assert plain_json.dumps(value) == json.dumps(value, separators=(",", ":"))


@given(values, st.text(" \t\r\n", max_size=3), st.text(" \t\r\n", max_size=3))
def test_what_the_standard_library_writes_is_read(value: Any, before: str, after: str) -> None:
    text = before + json.dumps(value, ensure_ascii=False, indent=1) + after
    assert plain_json.loads(text) == json.loads(text)
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert plain_json.loads(text.encode()) == value


@given(st.text('{}[],:"0-1eE+.\\ntrufalsN \x00é', max_size=12))
def test_what_is_no_json_for_the_standard_library_is_none_here(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        with pytest.raises(ValueError, match=r"."):
            plain_json.loads(text)
    else:
        assert plain_json.loads(text) == expected


@pytest.mark.parametrize("text", ["", " ", "{", "1 2", "[1]]", '{"a":1}x', "NaN", "-Infinity", "\ufeff1", '"\n"'])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        plain_json.loads(text)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        plain_json.loads(b'"\xff"')


def test_depth_without_end_is_an_error_and_no_crash() -> None:
    with pytest.raises(RecursionError):
        plain_json.loads("[" * 1_000_000)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), float("nan"), float("inf")])
def test_what_json_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain_json.dumps(value)


@pytest.mark.parametrize("text", ['{"a":"b', '{"a":1', '{"a"', "[1,", '["\\x"]', '{"a":1 "b":2}', '"a\nb"', "[1 2]", "{1:2}"])
def test_a_damaged_text_is_a_value_error_also_where_nobody_has_loaded_json(text: str) -> None:
    program = f"import sys; sys.path.append({str(TREE)!r}); from runner.kernel import plain_json; plain_json.loads({text!r})"
    done = subprocess.run([sys.executable, "-IS", "-c", program], env={}, capture_output=True, text=True, timeout=60, check=False)
    assert "\nValueError: " in done.stderr


def test_half_a_character_is_replaced_and_everything_else_stays() -> None:
    value = {"a\ud800": ["b\udfff", "é😀", 1, None, True], "c": 1.5}
    assert plain_json.whole(value) == {"a\ufffd\ufffd\ufffd": ["b\ufffd\ufffd\ufffd", "é😀", 1, None, True], "c": 1.5}
