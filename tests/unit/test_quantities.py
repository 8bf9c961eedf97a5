"""Sizes, durations, cores and counts: what people write, and what nobody can have meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import quantities

MEANINGLESS = [
    "",
    " ",
    "x",
    "-1",
    "+1",
    "1_000",
    "٣",
    "²",
    "0x10",
    "nan",
    "inf",
    "-inf",
    "1e3",
    "1,5",
    "1 2",
    "1.5.2",
    ".",
    "1.",
    "--",
    "9" * 5000,
]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("1b", 1), ("512m", 512 * 1024**2), ("512M", 512 * 1024**2), ("2g", 2 * 1024**3), ("2gb", 2 * 1024**3),
        ("2GiB", 2 * 1024**3),
        ("1k", 1024), ("1kb", 1024), ("1KiB", 1024), ("3t", 3 * 1024**4), ("1.5g", 3 * 1024**3 // 2), ("0.5k", 512), (" 7m ", 7 * 1024**2),
        ("7 m", 7 * 1024**2), ("007", 7), (str(2**62 - 1), 2**62 - 1), ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_size_has_an_optional_unit_of_1024(text: str, size: int) -> None:
    assert quantities.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [*MEANINGLESS, "0", "0.0m", "0.4", "0.9b", "m", "1x", "1kk", "1mg", "1ib", "1ki", "1bb", "1 m b", "4194304t", str(2**62), "1\n2"],
)
def test_size_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write a size such as 512m or 2g$"):
        quantities.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("10min", 600), ("1h", 3600), ("30d", 2592000), ("2W", 1209600), (" 2H ", 7200)],
)
def test_duration_has_an_optional_unit(text: str, seconds: int) -> None:
    assert quantities.parse_duration(text) == seconds


@pytest.mark.parametrize("text", [*MEANINGLESS, "1.5h", "h", "1x", "10mm", "10ms", "1hs", "1h30m", "-1s", "1234567890"])
def test_duration_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write a duration such as 90s, 10m, 1h or 30d$"):
        quantities.parse_duration(text)


@pytest.mark.parametrize(("text", "cpus"), [("1", 1.0), ("1.5", 1.5), (".5", 0.5), ("0.01", 0.01), ("4096", 4096.0), ("02", 2.0)])
def test_cpus_may_be_parts(text: str, cpus: float) -> None:
    assert quantities.parse_cpus(text) == cpus


@pytest.mark.parametrize("text", [*MEANINGLESS, "0", "0.009", "4096.1", "1m", "1\n", " 1"])
def test_cpus_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write a number of cores such as 1\.5$"):
        quantities.parse_cpus(text)


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("007", 7), ("4194303", 4194303)])
def test_count_is_a_whole_number(text: str, count: int) -> None:
    assert quantities.parse_count(text) == count


@pytest.mark.parametrize("text", [*MEANINGLESS, "0", "1.5", "4194304", "1\n", " 1", "1k"])
def test_count_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write a whole number above 0$"):
        quantities.parse_count(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600 * 23.9, "23 h"), (86400, "1 d"), (86400 * 400, "400 d")]
)
def test_duration_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert quantities.duration(seconds) == text


@given(st.text(max_size=12) | st.text("0123456789.bkmgtiBKMGT ", max_size=12))
def test_no_text_means_no_limit(text: str) -> None:
    for parse in (quantities.parse_size, quantities.parse_cpus, quantities.parse_count, quantities.parse_duration):
        try:
            assert parse(text) > 0 or parse is quantities.parse_duration
        except ValueError as e:
            assert str(e).startswith("write a ")
