"""Draw the demo's result, the picture of the README: docs/_static/demo.svg.

    python docs/picture.py

The day is the one that `python -m resilient demo` plays by default, in virtual time:
the same load, faults and clients, without sockets. The tests hold that the picture
is what this script draws. It needs httpx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import httpx

from resilient.demo.day import RATE, Day, Fault, Phase
from resilient.demo.figures import Results, results
from resilient.demo.load import Log, Request, play, protection
from resilient.demo.server import fingerprint
from resilient.testing import virtual_time

PICTURE = Path(__file__).parent / "_static" / "demo.svg"
SECONDS, SEED = 12, 1

WIDTH, HEIGHT = 440, 344
LEFT, CELL, ROWS = 16, 4.25, 10
"""Of a client's requests, `ROWS` stand in a column: time runs from left to right."""

STYLE: Final = (
    ".b{fill:#fff}.g{stroke:#fff;stroke-width:.75}.t{fill:#1f2328}.q{fill:#59636e}.s{fill:#eaeef2}"
    ".a{fill:#7cc0ec}.e{fill:#c44e00}"
    "@media(prefers-color-scheme:dark){.b{fill:#0d1117}.g{stroke:#0d1117}.t{fill:#f0f6fc}"
    ".q{fill:#9198a1}.s{fill:#212830}.a{fill:#2f6f9f}.e{fill:#ff8a3d}}"
)
"""Paper, text, quiet text, shade, answers and errors, in light and in dark."""


class InMemory(httpx.AsyncBaseTransport):
    """Acts a day out as `resilient.demo.server.Server` does, without sockets.

    Attributes:
        given: What every request was given, by when it was due.
    """

    def __init__(self, day: Day) -> None:
        self.day = day
        self.given: dict[float, Fault | None] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail as the day has it."""
        due = float(request.url.path[1:])
        fault = self.given[due] = self.day.fault(due)
        if fault is Fault.STALL:
            await asyncio.sleep(request.extensions["timeout"]["read"])
            raise httpx.ReadTimeout("stalled", request=request)
        await asyncio.sleep(self.day.latency(due))
        if fault is Fault.RESET:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(200 if fault is None else 503, request=request)


def played(
    seconds: int = SECONDS,
    seed: int = SEED,
    tell: Callable[[int, Log, Day], None] = lambda second, log, day: None,
) -> tuple[Results, Log]:
    """Play a day in virtual time.

    Args:
        seconds: How long it is.
        seed: What load and faults are drawn from.
        tell: Called every second of the day.
    """
    day, pipeline = Day(seconds, seed), protection()
    transport = InMemory(day)

    def told(second: int, log: Log) -> None:
        tell(second, log, day)

    log = virtual_time.run(play, day, "http://server", pipeline, told, transport)
    faults = fingerprint({due: transport.given[due] for due in day.due})
    return results(day, repr(pipeline), faults, log), log


def title(outcome: Results) -> str:
    """Return what the picture says, for those who cannot see it."""
    bare, protected = outcome.bare, outcome.protected
    return (
        f"The demo, {outcome.seconds} seconds: in fair weather httpx alone loses"
        f" {_lost(bare.answered)} of its requests, with p99 {bare.p99 * 1000:.0f} ms,"
        f" through the pipeline {_lost(protected.answered)}, with p99"
        f" {protected.p99 * 1000:.0f} ms; of {bare.attempts_in_outage} attempts at the"
        f" server that is down, {protected.attempts_in_outage} are left."
    )


def drawn(outcome: Results, log: Log) -> str:
    """Return the picture."""
    width = SECONDS * RATE // ROWS * CELL
    begin, end = (
        LEFT + width * at / SECONDS for at in (outcome.outage, outcome.recovery)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="system-ui,sans-serif" font-size="14" role="img">',
        f"<title>{escape(title(outcome))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="b" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<rect class="s" x="{begin:.1f}" y="34" width="{end - begin:.1f}"'
        ' height="268"/>',
        _text(LEFT, 24, f"{RATE} requests a second, {SECONDS} s", bold=True),
        _text(LEFT + width, 24, "figures: in fair weather", kind="q", anchor="end"),
        _text((begin + end) / 2, 50, "server down", kind="q", anchor="middle"),
    ]
    for y, name, requests, figures in (
        (74, "httpx alone", log.bare, outcome.bare),
        (152, "through the pipeline", log.protected, outcome.protected),
    ):
        parts += [
            _text(LEFT, y, name),
            _text(
                LEFT + width,
                y,
                f"{_lost(figures.answered)} lost, p99 {figures.p99 * 1000:.0f} ms",
                anchor="end",
            ),
            f'<rect class="a" x="{LEFT}" y="{y + 8}" width="{width - 0.75:g}"'
            f' height="{ROWS * CELL - 0.75:g}"/>',
            _cells(
                (n for n, each in enumerate(requests) if each.error is not None), y + 8
            ),
            f'<path class="g" d="{_grid(y + 8)}"/>',
        ]
    y = 230
    parts.append(_text(LEFT, y, "what the server gets, each second"))
    most = max(max(_attempts(each)) for each in (log.bare, log.protected))
    for number, (kind, requests) in enumerate((("q", log.bare), ("a", log.protected))):
        bars = [
            f"M{LEFT + second * width / SECONDS + 2 + 14 * number:.1f} 302"
            f"v{-60 * count / most:.1f}h14V302z"
            for second, count in enumerate(_attempts(requests))
        ]
        parts.append(f'<path class="{kind}" d="{"".join(bars)}"/>')
    parts += [
        f'<path class="e" d="M{LEFT} 323h10v10h-10z"/>',
        _text(LEFT + 16, 333, "error", kind="q"),
        f'<path class="q" d="M{LEFT + 70} 323h10v10h-10z"/>',
        _text(LEFT + 86, 333, "alone", kind="q"),
        f'<path class="a" d="M{LEFT + 142} 323h10v10h-10z"/>',
        _text(LEFT + 158, 333, "answer; pipeline", kind="q"),
        _text(LEFT + width, 333, f"{SECONDS} s", kind="q", anchor="end"),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _lost(answered: dict[str, float]) -> str:
    return f"{1 - answered[Phase.FAIR.value]:.1%}".replace("%", " %")


def _attempts(requests: Sequence[Request]) -> list[int]:
    """Return how many attempts were made in each second."""
    sent = [int(at) for request in requests for at in request.attempts]
    return [sent.count(second) for second in range(SECONDS)]


def _cells(numbers: Iterable[int], y: float) -> str:
    """Return a square for each of these requests."""
    squares = [
        f"M{LEFT + number // ROWS * CELL:g} {y + number % ROWS * CELL:g}h4v4h-4z"
        for number in numbers
    ]
    return f'<path class="e" d="{"".join(squares)}"/>'


def _grid(y: float) -> str:
    """Return the lines between the requests of a client."""
    columns = SECONDS * RATE // ROWS
    down = [
        f"M{LEFT + n * CELL - 0.375:g} {y:g}v{ROWS * CELL:g}" for n in range(1, columns)
    ]
    across = [
        f"M{LEFT} {y + n * CELL - 0.375:g}h{columns * CELL:g}" for n in range(1, ROWS)
    ]
    return "".join([*down, *across])


def _text(
    x: float,
    y: float,
    text: str,
    *,
    kind: str = "t",
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(*played()), "utf-8")
    print(PICTURE)
