"""Doublestar globs: the vectors of the contract's library, and a naive model of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import globs


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("ruby:*", "ruby:3.3", True),
        ("ruby:*", "ruby", False),
        ("ruby:*", "my/ruby:3.3", False),
        ("*", "ruby:3.3", True),
        ("*", "library/ruby", False),
        ("ruby", "ruby:3.3", False),
        ("r?by", "ruby", True),
        ("r?by", "r/by", False),
        ("r?by", "rby", False),
        ("registry.x:5000/a/*", "registry.x:5000/a/b:1", True),
        ("registry.x:5000/a/*", "registry.x:5000/a/b/c:1", False),
        ("registryXx/a", "registry.x/a", False),
        ("registry.x/a", "registryXx/a", False),
    ],
)
def test_a_star_and_a_question_mark_stop_at_a_slash(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("**", "registry.x/a/b:1", True),
        ("**/*", "ruby", True),
        ("**/*", "a/b/ruby", True),
        ("registry.x/**", "registry.x/a/b:1", True),
        ("registry.x/**", "registry.x", True),
        ("registry.x/**", "registry.xyz/a", False),
        ("registry.x/**/*:1", "registry.x/b:1", True),
        ("registry.x/**/*:1", "registry.x/a/c/b:1", True),
        ("registry.x/**/*:1", "registry.x/a/c/b:2", False),
        ("**/ruby", "a/b/ruby", True),
        ("**/ruby", "ruby", True),
        ("**/ruby", "aruby", False),
    ],
)
def test_two_stars_between_slashes_are_any_number_of_directories(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("registry.x/team**", "registry.x/team-a", True),
        ("registry.x/team**", "registry.x/team-a/ruby", False),
        ("registry.x/**team", "registry.x/my-team", True),
        ("registry.x/**team", "registry.x/a/team", False),
        ("ruby:**", "ruby:3/../evil", False),
    ],
)
def test_two_stars_inside_a_directory_are_one_star(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{ruby,python}:*", "python:3", True),
        ("{ruby,python}:*", "perl:5", False),
        ("{ruby,python}:*", "ruby,python:3", False),
        ("{my/ruby,{py,cpy}thon}", "my/ruby", True),
        ("{my/ruby,{py,cpy}thon}", "cpython", True),
        ("ruby{,:3}", "ruby", True),
        ("ruby{/**,:*}", "ruby/a/b", True),
        ("a|b", "a", False),
        (r"\{a,b\}", "{a,b}", True),
        (r"{a\,b,c}", "a,b", True),
        ("a}", "a}", True),
        ("a,b", "a,b", True),
    ],
)
def test_braces_are_alternatives(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("[rp]uby", "puby", True),
        ("[rp]uby", "xuby", False),
        ("[^r]uby", "xuby", True),
        ("[!r]uby", "ruby", False),
        ("a[^x]b", "a/b", False),
        ("ruby:[0-9]", "ruby:7", True),
        ("ruby:[0-9]", "ruby:-", False),
        ("ruby:[-9]", "ruby:-", True),
        ("ruby:[9-]", "ruby:-", True),
        (r"[\]a]", "]", True),
        (r"[\]a]", "\\", False),
        (r"[\^a]", "^", True),
        ("[a^]", "^", True),
        ("[[]", "[", True),
        ("[{]a,b}", "{a,b}", True),
        ("[&&]", "&", True),
        (r"[\d]", "7", False),
        (r"[\d]", "d", True),
    ],
)
def test_brackets_are_one_character_and_never_a_slash(pattern: str, name: str, expected: bool) -> None:
    assert globs.matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["[", "[]", "[^]", "[a", "a[b-", "{a", "{a,{b}", "a\\", "[a\\", "[z-a]", "a/[b/c]"])
def test_a_pattern_that_is_none_allows_nothing(pattern: str) -> None:
    assert not globs.matches(pattern, pattern)
    assert not globs.matches(pattern, "a")


@pytest.mark.parametrize("name", ["ruby\n", "\nruby", "ruby\n:3"])
def test_an_end_of_line_is_a_character_like_any_other(name: str) -> None:
    assert not globs.matches("ruby", name)
    assert not globs.matches("ruby:*", name)
    assert globs.matches("**", name)
    assert globs.matches("*", name)


@pytest.mark.timeout(10)
def test_a_long_name_costs_no_more_than_time_in_proportion() -> None:
    assert not globs.matches("**/" * 20 + "x", "a/" * 2000)


def naive(pattern: str, name: str, *, at_start: bool = True) -> bool:
    """Match character by character, trying everything."""
    if not pattern:
        return not name
    if not name and not pattern.replace("/**", ""):
        return True
    if at_start and pattern == "**":
        return True
    if at_start and pattern.startswith("**/"):
        starts = [0, *(place + 1 for place, character in enumerate(name) if character == "/")]
        return any(naive(pattern[3:], name[start:]) for start in starts)
    if pattern[0] == "*":
        return naive(pattern[1:], name, at_start=False) or (name[:1] not in ("", "/") and naive(pattern, name[1:], at_start=False))
    if not name or (pattern[0] == "?" and name[0] == "/") or pattern[0] not in ("?", name[0]):
        return False
    return naive(pattern[1:], name[1:], at_start=pattern[0] == "/")


@given(st.lists(st.sampled_from(["a", "b", "/", "*", "**", "/**/", "?"]), max_size=8), st.text("ab/", max_size=8))
def test_stars_mean_what_a_naive_reading_says(pattern: list[str], name: str) -> None:
    assert globs.matches("".join(pattern), name) == naive("".join(pattern), name)


@given(st.lists(st.text("ab/*?", max_size=4), min_size=1, max_size=3), st.text("ab/*?", max_size=3), st.text("ab/", max_size=6))
def test_alternatives_are_the_patterns_one_by_one(alternatives: list[str], rest: str, name: str) -> None:
    together = globs.matches("{" + ",".join(alternatives) + "}" + rest, name)
    assert together == any(globs.matches(alternative + rest, name) for alternative in alternatives)


@given(st.text(max_size=20))
def test_a_pattern_with_everything_escaped_matches_itself_only(name: str) -> None:
    pattern = "".join(character if character == "/" else f"\\{character}" for character in name)
    assert globs.matches(pattern, name)
    assert not globs.matches(pattern, name + "x")


@given(st.text("ab/*?[]{}^!-,\\", max_size=16), st.text("ab/[]{}-", max_size=8))
def test_whatever_is_written_there_is_an_answer(pattern: str, name: str) -> None:
    assert globs.matches(pattern, name) in (True, False)
