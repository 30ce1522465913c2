"""Draw what policies do in time: docs/reference/in-time/POLICY.svg.

    python docs/in_time.py

Each picture is a run in virtual time of the policy that its page shows. The tests hold
that the pictures are what this script draws.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.simulations._plot import STYLE  # noqa: E402  # found by the line above

from resilient import (  # noqa: E402
    Bulkhead,
    CircuitBreaker,
    CircuitChanged,
    Event,
    Pipeline,
    Policy,
    RateLimiter,
    ResilientError,
    Retry,
    Timeout,
    delays,
)
from resilient._runtimes import clock  # noqa: E402
from resilient.testing import virtual_time  # noqa: E402

FOLDER = Path(__file__).parent / "reference" / "in-time"
WIDTH, LEFT, RIGHT, TOP, STEP = 548, 84, 530, 14, 30

COLOURS: Final = {
    "answers": "#0072b2",
    "fails": "#d55e00",
    "waits": "currentColor",
    "is refused": "#cc79a7",
    "": "currentColor",
}
"""What a call does, and how it is drawn: waiting as a thin line, refused as a cross.
Without a name: a state of the policy."""


class Span(NamedTuple):
    """What a call, or a policy, does from when to when; seconds."""

    kind: str
    begin: float
    end: float


class Picture(NamedTuple):
    """A run: a name and what happens, row by row, and how many seconds are shown."""

    title: str
    rows: Sequence[tuple[str, Sequence[Span]]]
    seconds: float


class Work:
    """What calls run: each attempt takes some time, and may fail.

    Args:
        took: Seconds of each attempt; one that is negative fails then.
    """

    def __init__(self, *took: float) -> None:
        self.took = list(took)
        self.spans: list[Span] = []

    async def __call__(self) -> None:
        """Run an attempt."""
        took, begin = self.took.pop(0), clock.now()
        kind = "fails"
        try:
            await asyncio.sleep(abs(took))
            if took < 0:
                raise ConnectionError("reset")
            kind = "answers"
        finally:
            self.spans.append(Span(kind, begin, clock.now()))


async def called(policy: Policy, work: Work, at: float) -> list[Span]:
    """Make a call at a moment; return what it did."""
    await asyncio.sleep(at - clock.now())
    began, refused = clock.now(), False
    try:
        await policy.acall(work)
    except (ConnectionError, TimeoutError):
        pass
    except ResilientError:
        refused = True
    ended = clock.now()
    waits = [Span("waits", began, ended)] if ended > began else []
    refusals = [Span("is refused", ended, ended)] if refused else []
    return [*waits, *work.spans, *refusals]


async def _calls(
    policy: Policy, *calls: tuple[float, Work]
) -> list[tuple[str, list[Span]]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(called(policy, work, at)) for at, work in calls]
    return [
        (f"call {number}", task.result()) for number, task in enumerate(tasks, start=1)
    ]


async def retry() -> Picture:
    """Three attempts, with pauses that double."""
    policy = Retry(ConnectionError, backoff=delays([0.2, 0.4]))
    rows = await _calls(
        policy, (0, Work(-0.1, -0.1, 0.15)), (0.1, Work(-0.1, -0.1, -0.1))
    )
    return Picture("Two calls through a Retry of three attempts", rows, 1.2)


async def circuit_breaker() -> Picture:
    """A service is down from 2 s to 9 s; four calls a second."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=5, open_for=3)
    changes: list[tuple[float, str]] = [(0.0, "closed")]

    def note(event: Event) -> None:
        if isinstance(event, CircuitChanged):
            changes.append((clock.now(), event.new))

    breaker.subscribe(note)
    calls = [(at / 4, Work(-0.1 if 2 <= at / 4 < 9 else 0.1)) for at in range(56)]
    spans = [
        span
        for _, row in await _calls(breaker, *calls)
        for span in row
        if span.kind != "waits"
    ]
    ends = [*(at for at, _ in changes[1:]), 14.0]
    states = [
        Span(kind, begin, end) for (begin, kind), end in zip(changes, ends, strict=True)
    ]
    by_state = [
        (name, [Span("", s.begin, s.end) for s in states if s.kind == kind])
        for name, kind in (
            ("closed", "closed"),
            ("open", "open"),
            ("half-open", "half_open"),
        )
    ]
    title = "Calls through a CircuitBreaker; the service is down from 2 s to 9 s"
    return Picture(title, [("calls", spans), *by_state], 14)


async def rate_limiter() -> Picture:
    """Six calls at once, of which two pass at once and two more may wait."""
    policy = RateLimiter(2, burst=2, max_wait=1)
    rows = await _calls(policy, *[(0, Work(0.2)) for _ in range(6)])
    return Picture("Six calls at once through RateLimiter(2, max_wait=1)", rows, 1.4)


async def bulkhead() -> Picture:
    """Two slots and a place to wait, for four calls."""
    policy = Bulkhead(2, max_queue=1)
    calls = [(0.0, 0.5), (0.1, 0.7), (0.2, 0.4), (0.3, 0.4)]
    rows = await _calls(policy, *[(at, Work(took)) for at, took in calls])
    return Picture("Four calls through Bulkhead(2, max_queue=1)", rows, 1.0)


async def timeout() -> Picture:
    """A limit for the call, and one for each attempt."""
    policy = Pipeline(
        Timeout(1), Retry(TimeoutError, backoff=delays([0.1, 0.1])), Timeout(0.4)
    )
    rows = await _calls(policy, (0, Work(9, 0.2)), (0, Work(9, 9, 9)))
    title = "Timeout(1) around a Retry, Timeout(0.4) for each attempt"
    return Picture(title, rows, 1.2)


PICTURES: Final[dict[str, Callable[[], Awaitable[Picture]]]] = {
    "retry": retry,
    "circuit-breaker": circuit_breaker,
    "rate-limiter": rate_limiter,
    "bulkhead": bulkhead,
    "timeout": timeout,
}
"""By the name of the page."""


def drawn(picture: Picture) -> str:
    """Return a picture as SVG."""
    bottom = TOP + STEP * len(picture.rows)
    height = bottom + 66

    def x(seconds: float) -> float:
        return LEFT + (RIGHT - LEFT) * seconds / picture.seconds

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="system-ui,sans-serif" font-size="16" fill="currentColor"'
        ' role="img">',
        f"<title>{escape(picture.title)}</title>",
        STYLE,
    ]
    for number, (name, spans) in enumerate(picture.rows):
        y = TOP + STEP * number + STEP / 2
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 5:g}" text-anchor="end">{name}</text>'
        )
        parts += [_span(span, x(span.begin), x(span.end), y) for span in spans]
    parts.append(
        f'<path d="M{LEFT} {bottom}H{RIGHT}" stroke="currentColor" opacity=".5"/>'
    )
    step = next(each for each in (0.2, 2.0) if picture.seconds / each <= 8)
    for tick in range(int(picture.seconds / step + 1e-9) + 1):
        at = f"{x(tick * step):.1f}"
        parts += [
            f'<path d="M{at} {bottom}v5" stroke="currentColor"/>',
            f'<text x="{at}" y="{bottom + 22}" text-anchor="middle">'
            f"{round(tick * step, 1):g}</text>",
        ]
    parts.append(f'<text x="4" y="{bottom + 22}">seconds</text>')
    at = LEFT
    used = {span.kind for _, spans in picture.rows for span in spans}
    for kind in COLOURS:
        if kind and kind in used:
            parts += [
                _span(
                    Span(kind, 0, 0 if kind == "is refused" else 1),
                    at,
                    at + 18,
                    bottom + 48,
                ),
                f'<text x="{at + 26}" y="{bottom + 53}">{kind}</text>',
            ]
            at += 40 + 9 * len(kind)
    return "\n".join([*parts, "</svg>", ""])


def _span(span: Span, begin: float, end: float, y: float) -> str:
    colour = COLOURS[span.kind]
    if span.kind == "is refused":
        middle = (begin + end) / 2
        return (
            f'<path d="M{middle - 5:.1f} {y - 5:g}l10 10m0 -10l-10 10"'
            f' stroke="{colour}" stroke-width="2"/>'
        )
    high = {"waits": 3, "": 6}.get(span.kind, 14)
    opacity = ' fill-opacity=".45"' if span.kind == "waits" else ""
    return (
        f'<rect x="{begin:.1f}" y="{y - high / 2:g}" width="{end - begin:.1f}"'
        f' height="{high}" fill="{colour}"{opacity}/>'
    )


def run(name: str) -> str:
    """Return the picture of a page."""

    async def timed() -> Picture:
        return await PICTURES[name]()

    picture: Any = virtual_time.run(timed)
    return drawn(picture)


if __name__ == "__main__":
    for page in PICTURES:
        (FOLDER / f"{page}.svg").write_text(run(page), "utf-8")
