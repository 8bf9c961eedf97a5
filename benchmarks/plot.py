"""The results as a picture, results.svg: a bar for each ratio, and a curve of jobs side by side."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.measure import Result, median, show

_WIDTH, _LEFT, _RIGHT = 860, 230, 40
_ROW, _TOP = 34, 56
_CURVE_HEIGHT = 200
_LONGEST = 2.0  # a bar of more than twice the other side is cut: its number says the rest
_OURS, _OTHER, _WANTED, _MISSED, _INK = "#2563a8", "#d5d9e0", "#1a7f37", "#c02d2d", "#24292f"
_STYLE = "font-family: sans-serif; font-size: 13px"


def write(path: Path, results: Sequence[Result], curve: Sequence[float]) -> None:
    """Write the picture; a curve that was not measured is left out."""
    ratios = [result for result in results if result.other]
    bars, height = _bars(ratios)
    below, more = _curve(curve, height) if curve else ([], 0)
    body = "\n".join([*bars, *below])
    size = f'width="{_WIDTH}" height="{height + more}" viewBox="0 0 {_WIDTH} {height + more}"'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_STYLE}">\n{paper}\n{body}\n</svg>\n')


def _bars(ratios: Sequence[Result]) -> tuple[list[str], int]:
    """Return one row a ratio: a grey bar for the other side, ours over it, and a mark where the target is."""
    widest = max([1.0, *(min(result.number, _LONGEST) for result in ratios), *(result.target or 0 for result in ratios)])
    scale = (_WIDTH - _LEFT - _RIGHT) / widest
    out = [
        _text(20, 24, "What dockless takes (blue) for each of the other side (grey = 1)", bold=True),
        _text(20, 42, "time, or memory where the name says rss; the mark is the target; less is better", colour="#57606a"),
    ]
    for number, result in enumerate(ratios):
        top, length = _TOP + number * _ROW, min(result.number, widest)
        out += [
            _text(_LEFT - 10, top + 17, result.name, anchor="end"),
            _box(_LEFT, top, scale, 24, _OTHER),
            _box(_LEFT, top + 5, length * scale, 14, _MISSED if result.is_missed else _OURS),
        ]
        if result.target is not None:
            out.append(_line(_LEFT + result.target * scale, top - 2, _LEFT + result.target * scale, top + 26, _WANTED, 3))
        words = f"{result.number:.2f}: {result.ours}, {result.other}"
        inside = _LEFT + max(length, result.target or 0) * scale + 8
        fits = inside + 7 * len(words) < _WIDTH
        out.append(_text(inside, top + 17, words) if fits else _text(_LEFT + 8, top + 17, words, colour="white"))
    return out, _TOP + len(ratios) * _ROW + 10


def _curve(curve: Sequence[float], top: int) -> tuple[list[str], int]:
    """Return the curve of what the n-th job takes to start, over n, beginning at zero."""
    middle = median(curve[:5])
    highest = max(*curve, middle * 1.3) * 1.1
    base, width = top + 40 + _CURVE_HEIGHT, _WIDTH - 100 - _RIGHT

    def x(number: int) -> float:
        return 100 + (number - 1) / max(1, len(curve) - 1) * width

    def y(seconds: float) -> float:
        return base - seconds / highest * _CURVE_HEIGHT

    points = " ".join(f"{x(number):.1f},{y(seconds):.1f}" for number, seconds in enumerate(curve, 1))
    out = [
        _text(20, top + 24, "Preparing the n-th job and its first step, beside n - 1 jobs that run", bold=True),
        _line(100, base, _WIDTH - _RIGHT, base, _INK, 1),
        _line(100, base - _CURVE_HEIGHT, 100, base, _INK, 1),
        f'<polyline points="{points}" fill="none" stroke="{_OURS}" stroke-width="2"/>',
        _line(100, y(middle * 1.3), _WIDTH - _RIGHT, y(middle * 1.3), _WANTED, 1),
        _text(_WIDTH - _RIGHT, y(middle * 1.3) - 5, "1.3 times the first", anchor="end", colour=_WANTED),
        _text(92, y(middle) + 5, show(middle), anchor="end"),
        _text(92, base + 5, "0", anchor="end"),
    ]
    out += [_text(x(number), base + 18, str(number), anchor="middle") for number in (1, len(curve) // 2, len(curve))]
    return out, 40 + _CURVE_HEIGHT + 30


def _text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, colour: str = _INK) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
