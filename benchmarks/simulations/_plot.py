"""Line plots as SVG, the same to the byte whenever the numbers are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 530, 18, 292

# Okabe and Ito's, which colour-blind readers tell apart.
COLOURS: Final = (
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
)  # fmt: skip


class Line(NamedTuple):
    """A line of a plot: its name in the legend, and its points."""

    label: str
    points: Sequence[tuple[float, float]]


class Axis(NamedTuple):
    """An axis: what it shows, from where to where.

    On a logarithmic one, what is below the lower end is left out.
    """

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float, begin: float, end: float) -> float:
        """Where a value stands between two coordinates."""
        share = self._scaled(value) - self._scaled(self.low)
        return begin + (end - begin) * share / (
            self._scaled(self.high) - self._scaled(self.low)
        )

    def ticks(self) -> list[float]:
        """Some five round values."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.log10(self.high)
            return [10.0**n for n in range(first, math.floor(last + 1e-9) + 1)]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def plot(
    title: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    *,
    shaded: tuple[float, float] | None = None,
) -> str:
    """Draw lines.

    Args:
        title: For those who cannot see it.
        x: The horizontal axis.
        y: The vertical axis; lines are cut off at its ends.
        lines: What to draw, in the order of the legend.
        shaded: Between which values of x something is the matter.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
    ]
    if shaded is not None:
        begin, end = (x.place(value, LEFT, RIGHT) for value in shaded)
        parts.append(
            f'<rect x="{begin:.1f}" y="{TOP}" width="{end - begin:.1f}"'
            f' height="{BOTTOM - TOP}" fill="#eee"/>'
        )
    for value in x.ticks():
        at = x.place(value, LEFT, RIGHT)
        parts += [
            f'<path d="M{at:.1f} {BOTTOM}v5" stroke="#888"/>',
            f'<text x="{at:.1f}" y="{BOTTOM + 18}" text-anchor="middle">'
            f"{value:g}</text>",
        ]
    for value in y.ticks():
        at = y.place(value, BOTTOM, TOP)
        parts += [
            f'<path d="M{LEFT} {at:.1f}H{RIGHT}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>',
        ]
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts += [
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#888"/>',
        f'<text x="{middle[0]}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x.label)}</text>",
        f'<text transform="translate(14 {middle[1]}) rotate(-90)"'
        f' text-anchor="middle">{escape(y.label)}</text>',
    ]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(_points(line, x, y))
        at = TOP + 10 + 22 * number
        parts += [
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"'
            ' stroke-linejoin="round"/>',
            f'<path d="M{RIGHT + 14} {at}h18" stroke="{colour}" stroke-width="3"/>',
            f'<text x="{RIGHT + 38}" y="{at + 4}">{escape(line.label)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _points(line: Line, x: Axis, y: Axis) -> list[str]:
    return [
        f"{x.place(across, LEFT, RIGHT):.1f}"
        f" {y.place(max(y.low, min(y.high, other)), BOTTOM, TOP):.1f}"
        for across, other in line.points
        if x.low <= across <= x.high and not (y.log and other < y.low)
    ]
