"""A line chart as SVG: a few lines over a common axis, nothing more."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 56
COLOURS = ("#1f6fb2", "#d1632a", "#3f8f4f", "#7a52a3")

Point = tuple[float, float]


def ratio_chart(
    title: str, lines: Mapping[str, Sequence[Point]], *, label: str, ticks: Sequence[tuple[float, str]]
) -> str:
    """Draw lines whose values lie between 0 and 1.

    Args:
        title: Above the chart.
        lines: By name; each a list of (x, ratio), rising in x, at least one point in all.
        label: What x is.
        ticks: Marks of the x axis, and their texts.
    """
    across = [x for points in lines.values() for x, _ in points]
    low, high = min(across), max(across)
    span = (high - low) or 1.0

    def place(point: Point) -> tuple[float, float]:
        x = LEFT + (point[0] - low) / span * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(HEIGHT - BOTTOM - point[1] * (HEIGHT - TOP - BOTTOM), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for tenth in range(0, 11, 2):
        _, y = place((low, tenth / 10))
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tenth / 10:.1f}</text>')
    for x, text in ticks:
        at, _ = place((x, 0))
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(text)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(label)}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in placed)
        y = TOP + 16 + 18 * number
        parts.append(
            f'<line x1="{LEFT + 12}" y1="{y - 4}" x2="{LEFT + 36}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{LEFT + 42}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
