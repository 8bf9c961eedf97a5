"""Sizes, cores and counts as people write them."""

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_size(text: str) -> int:
    """Return bytes for a number with an optional unit b, k, m, g or t ("512m", "2GiB"). ValueError otherwise."""
    lower = text.strip().lower()
    digits = lower.rstrip("bkmgti")
    unit = lower[len(digits) :].removesuffix("ib").removesuffix("b")
    if unit not in _UNITS:
        raise ValueError("write a size such as 512m or 2g")
    try:
        size = float(digits) * _UNITS[unit]
    except ValueError:
        raise ValueError("write a size such as 512m or 2g") from None
    if not 0 < size < 1 << 62:
        raise ValueError("write a size such as 512m or 2g")
    return int(size)


def parse_cpus(text: str) -> float:
    """Return a number of cores ("1.5"). ValueError otherwise."""
    try:
        cpus = float(text)
    except ValueError:
        raise ValueError("write a number of cores such as 1.5") from None
    if not 0.01 <= cpus <= 4096:
        raise ValueError("write a number of cores such as 1.5")
    return cpus


def parse_count(text: str) -> int:
    """Return a positive whole number. ValueError otherwise."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 22):
        raise ValueError("write a whole number above 0")
    return int(text)
