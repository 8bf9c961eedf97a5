"""Sizes, cores and counts as people write them."""

import re

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE_HINT = "write a size such as 512m or 2g"
_CPUS_HINT = "write a number of cores such as 1.5"
_COUNT_HINT = "write a whole number above 0"


def parse_size(text: str) -> int:
    """Return bytes for a number with an optional unit b, k, m, g or t ("512m", "2GiB"). ValueError otherwise."""
    found = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?(?:([kmgt])(?:i?b)?|b)?", text.strip().lower())
    if not found:
        raise ValueError(_SIZE_HINT)
    number, unit = found[1], _UNITS[found[2] or ""]
    size = int(float(number) * unit) if "." in number else int(number) * unit
    if not 0 < size < 1 << 62:
        raise ValueError(_SIZE_HINT)
    return size


def parse_cpus(text: str) -> float:
    """Return a number of cores ("1.5"). ValueError otherwise."""
    if not re.fullmatch(r"[0-9]{0,10}(?:\.[0-9]{1,20})?", text) or not text:
        raise ValueError(_CPUS_HINT)
    cpus = float(text)
    if not 0.01 <= cpus <= 4096:
        raise ValueError(_CPUS_HINT)
    return cpus


def parse_count(text: str) -> int:
    """Return a positive whole number. ValueError otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) < 1 << 22):
        raise ValueError(_COUNT_HINT)
    return int(text)
