"""Bars in SVG, without a library."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, FIGURES, BAR, GAP, TOP = 720, 170, 190, 18, 8, 40


@dataclass(frozen=True)
class Bar:
    """One contender: median and range."""

    label: str
    middle: float
    low: float
    high: float


def bars(title: str, unit: str, found: list[Bar]) -> str:
    """A picture of one bar for each contender, with a line from the lowest to the highest repeat."""
    return "\n".join(lines(title, unit, found)) + "\n"


def lines(title: str, unit: str, found: list[Bar]) -> Iterator[str]:
    """The elements of the picture."""
    height = TOP + len(found) * (BAR + GAP) + GAP
    most = max((bar.high for bar in found), default=1.0) or 1.0
    scale = (WIDTH - LABELS - FIGURES) / most
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    yield f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)}</text>'
    for number, bar in enumerate(found):
        y = TOP + number * (BAR + GAP)
        middle = y + BAR / 2
        digits = 0 if bar.middle >= 100 else 1
        low, high = LABELS + bar.low * scale, LABELS + bar.high * scale
        yield f'<text x="{LABELS - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
        yield f'<rect x="{LABELS}" y="{y}" width="{bar.middle * scale:.1f}" height="{BAR}" fill="#4a7dab"/>'
        yield f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1b2a38" stroke-width="2"/>'
        yield f'<text x="{high + 8:.1f}" y="{middle + 4:.1f}">{bar.middle:,.{digits}f} {escape(unit)}</text>'
    yield "</svg>"
