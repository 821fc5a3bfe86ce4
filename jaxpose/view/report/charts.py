"""Line and column charts as SVG for a page, whose style gives the colours, light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpose.files import is_number

__all__ = ["columns", "lines", "steps_and_values", "ticks"]

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 40  # margins
MOST = 400  # points per line: more are not visible
COLORS = 4


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Returns round numbers from `low` to `high`, about `count` of them.

    >>> ticks(0, 1), ticks(3, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [3])
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def steps_and_values(events: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Returns the steps of the events of a log that state a value, and the values, as `lines` draws them.

    >>> steps_and_values([{"step": 1, "loss": 2.0}, {"step": 2}], "loss")
    ([1], [2.0])
    """
    events = [event for event in events if is_number(event.get(name))]
    return [event["step"] for event in events], [event[name] for event in events]


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str,
    low: float | None = None,
    high: float | None = None,
    x_range: tuple[float, float] | None = None,
    log: bool = False,
    dots: bool = False,
    diagonal: bool = False,
) -> str:
    """Draws lines over one axis, as an SVG element.

    Args:
        series: name -> (x values, y values), finite.
        title, x: title of the chart, and label of the x axis.
        low, high: ends of the y axis; None: those of the values.
        x_range: ends of the x axis; None: those of the values.
        log: True if the y axis is logarithmic; values that are not positive are left out.
        dots: if True, draw a dot at every value.
        diagonal: if True, draw a line from corner to corner.

    >>> lines({"a": ([0], [1]), "<b>": ([0, 1], [2.0, 1.0])}, title="loss", x="step").count("&lt;b&gt;")
    1
    """
    visible = {}
    for name, (xs, ys) in series.items():
        points = [(float(a), float(b)) for a, b in zip(xs, ys, strict=True) if not log or b > 0]
        visible[name] = points[:: max(1, -(-len(points) // MOST))] + points[-1:]
    visible = {name: points for name, points in visible.items() if points}
    values = [(b if not log else math.log10(b)) for points in visible.values() for _, b in points] or [0.0]
    steps = [a for points in visible.values() for a, _ in points] or [0.0]
    bottom = min(values) if low is None else low
    top = max(values) if high is None else high
    if not top > bottom:
        bottom, top = bottom - 0.5, top + 0.5
    left, right = (min(steps), max(steps)) if x_range is None else x_range
    if not right > left:
        left, right = left - 0.5, right + 0.5
    at_x = lambda v: LEFT + (v - left) / (right - left) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    at_y = lambda v: HEIGHT - BOTTOM - (v - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    parts = _frame(title, x)
    for tick in ticks(bottom, top):
        label = f"1e{tick:g}" if log else f"{tick:g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(tick):.1f}" y2="{at_y(tick):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in ticks(left, right, count=4):
        parts.append(f'<text x="{at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    if diagonal:
        parts.append(f'<line class="diagonal" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{TOP}"/>')
    for i, points in enumerate(visible.values()):
        color, placed = i % COLORS, [(at_x(a), at_y(math.log10(b) if log else b)) for a, b in points]
        parts.append(f'<polyline class="s{color}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in placed)}"/>')
        if dots or len(points) == 1:
            parts += [f'<circle class="f{color}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in placed]
    if len(visible) > 1:
        parts += _legend(list(visible))
    return "".join(parts) + "</svg>"


def columns(rows: Sequence[tuple[str, int]], *, title: str, x: str) -> str:
    """Draws a column per (name, count), the first apart from the others and in another colour, as an SVG element.

    >>> columns([("missed", 2), ("0.00", 1)], title="people", x="OKS").count("<rect")
    2
    """
    top = max((count for _, count in rows), default=0) or 1
    space = (WIDTH - LEFT - RIGHT) / (len(rows) + 1)
    height = HEIGHT - TOP - BOTTOM
    parts = _frame(title, x)
    for tick in (t for t in ticks(0, top) if t == int(t)):
        y = HEIGHT - BOTTOM - tick / top * height
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.0f}</text>')
    for i, (name, count) in enumerate(rows):
        tall, at = count / top * height, LEFT + (i + (i > 0)) * space
        description = html.escape(f"{name}: {count:,}")
        parts.append(
            f'<rect class="f{0 if i else 1}" x="{at + space * 0.12:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{space * 0.76:.1f}" height="{tall:.1f}"><title>{description}</title></rect>'
        )
        if i == 0 or (i > 1 and i % 5 == 1):
            parts.append(
                f'<text x="{at + space / 2:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{html.escape(name)}</text>'
            )
    return "".join(parts) + "</svg>"


def _frame(title: str, x: str) -> list[str]:
    return [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text class="title" x="{LEFT}" y="20">{html.escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>',
    ]


def _legend(names: Sequence[str]) -> list[str]:
    """Draws the legend in the upper left corner."""
    parts = []
    for i, name in enumerate(names):
        y = TOP + 12 + 15 * i
        parts.append(
            f'<line class="s{i % COLORS}" stroke-width="2.5" x1="{LEFT + 10}" x2="{LEFT + 26}" y1="{y - 4}" y2="{y - 4}"/>'
        )
        parts.append(f'<text x="{LEFT + 31}" y="{y}">{html.escape(str(name))}</text>')
    return parts
