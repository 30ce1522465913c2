"""Line plots as SVG, the same to the byte whenever the numbers are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

LEFT, RIGHT, TOP, BOTTOM = 62, 530, 18, 292
WIDTH, LEGEND, STEP = 548, 364, 24
"""Of the picture; where its legend begins, and how high a line of it is. As narrow as
this, its letters of 16 are some 10 pixels high on a phone of 390."""

# Okabe and Ito's, which colour-blind readers tell apart, on white and on black.
COLOURS: Final = (
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "currentColor",
)  # fmt: skip

STYLE: Final = (
    "<style>:root{color:#1f2328;background:#fff}@media(prefers-color-scheme:dark)"
    "{:root{color:#e6edf3;background:#0d1117}}</style>"
)
"""Where a plot stands alone, on a page of GitHub. The site, which has a switch between
light and dark, puts the plot into the page without this: docs/conf.py."""


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
    places: list[float] = []
    if shaded is not None:
        places = [x.place(value, LEFT, RIGHT) for value in shaded]
    return _drawn(
        title,
        x.label,
        y.label,
        [(f"{x.place(value, LEFT, RIGHT):.1f}", f"{value:g}") for value in x.ticks()],
        [(f"{y.place(value, BOTTOM, TOP):.1f}", f"{value:g}") for value in y.ticks()],
        [(line.label, "L".join(_points(line, x, y))) for line in lines],
        (f"{places[0]:.1f}", f"{places[1] - places[0]:.1f}") if places else None,
    )


def _drawn(
    title: str,
    across: str,
    up: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    lines: Sequence[tuple[str, str]],
    shade: tuple[str, str] | None,
) -> str:
    """Draw what has its place already."""
    height = LEGEND + STEP * len(lines) - 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -14 {WIDTH} {height + 14}"'
        ' font-family="system-ui,sans-serif" font-size="16" fill="currentColor"'
        ' role="img">',
        f"<title>{escape(title)}</title>",
        STYLE,
    ]
    if shade is not None:
        parts.append(
            f'<rect x="{shade[0]}" y="{TOP}" width="{shade[1]}"'
            f' height="{BOTTOM - TOP}" fill-opacity=".08"/>'
        )
    for at, text in columns:
        parts += [
            f'<path d="M{at} {BOTTOM}v5" stroke="currentColor"/>',
            f'<text x="{at}" y="{BOTTOM + 22}" text-anchor="middle">{text}</text>',
        ]
    for at, text in rows:
        parts += [
            f'<path d="M{LEFT} {at}H{RIGHT}" stroke="currentColor" opacity=".15"/>',
            f'<text x="{LEFT - 8}" y="{at}" dy="5" text-anchor="end">{text}</text>',
        ]
    parts += [
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="currentColor"'
        ' opacity=".5"/>',
        f'<text x="{RIGHT}" y="{BOTTOM + 44}" text-anchor="end">'
        f"{escape(across)}</text>",
        f'<text x="4" y="2">{escape(up)}</text>',
    ]
    for number, (name, path) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        at = LEGEND + STEP * number
        parts += [
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"'
            ' stroke-linejoin="round"/>',
            f'<path d="M{LEFT} {at - 5}h22" stroke="{colour}" stroke-width="4"/>',
            f'<text x="{LEFT + 32}" y="{at}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _points(line: Line, x: Axis, y: Axis) -> list[str]:
    return [
        f"{x.place(across, LEFT, RIGHT):.1f}"
        f" {y.place(max(y.low, min(y.high, other)), BOTTOM, TOP):.1f}"
        for across, other in line.points
        if x.low <= across <= x.high and not (y.log and other < y.low)
    ]
