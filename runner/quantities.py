"""Sizes, durations, cores and counts as people write them. Loaded on the hot path: no regular expressions here."""

_POWERS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_UNITS = {"": 1, "b": 1, **{f"{letter}{rest}": size for letter, size in _POWERS.items() for rest in ("", "b", "ib")}}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE_HINT = "write a size such as 512m or 2g"
_CPUS_HINT = "write a number of cores such as 1.5"
_DURATION_HINT = "write a duration such as 90s, 10m, 1h or 30d"
_COUNT_HINT = "write a whole number above 0"


def parse_size(text: str) -> int:
    """Return bytes for a number with an optional unit b, k, m, g or t ("512m", "2GiB"). ValueError otherwise."""
    written = text.strip().lower()
    number = written.rstrip("bikmgt")
    unit = written[len(number) :]
    number = number.removesuffix(" ")
    if unit not in _UNITS or not _is_decimal(number):
        raise ValueError(_SIZE_HINT)
    size = int(float(number) * _UNITS[unit]) if "." in number else int(number) * _UNITS[unit]
    if not 0 < size < 1 << 62:
        raise ValueError(_SIZE_HINT)
    return size


def parse_duration(text: str) -> int:
    """Return seconds for a whole number with an optional unit s, m (or min), h, d or w ("10m"); 0 is one. ValueError otherwise."""
    written = text.strip().lower()
    number = written.rstrip("sminhdw")
    unit = written[len(number) :]
    if unit not in _SECONDS or not (number.isascii() and number.isdigit() and len(number) < 10):
        raise ValueError(_DURATION_HINT)
    return int(number) * _SECONDS[unit]


def parse_cpus(text: str) -> float:
    """Return a number of cores ("1.5"). ValueError otherwise."""
    if not text or not _is_decimal(f"0{text}"):
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


def duration(seconds: float) -> str:
    """Return a duration as people say it, in its largest unit: 200000 -> "2 d"."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def _is_decimal(text: str) -> bool:
    """Tell whether a text is digits, with or without a point and more digits; at most twenty of each."""
    whole, point, fraction = text.partition(".")
    return all(part.isascii() and part.isdigit() and len(part) <= 20 for part in ((whole, fraction) if point else (whole,)))
