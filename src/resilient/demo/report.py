"""What the demo prints: the plan, a line a second, and the table."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TextIO

from resilient import CircuitChanged, Pipeline
from resilient.demo.day import LOSS, RATE, Day, Phase
from resilient.demo.figures import Figures, Results
from resilient.demo.load import PATIENCE, Log, Request

WIDTH: Final = 78
"""Columns, at most; a terminal has 80."""

_GLYPHS: Final = {"█": "#", "░": ".", "→": "->", "–": "-", "─": "-"}
"""What stands for a character that a terminal cannot show."""

_REASONS: Final = (
    "the whole call: the bare client waits no longer either",
    "3 attempts, full jitter; five successes pay for one retry",
    "short windows for a short day: by default it looks back 10 s and stays"
    " open for 5 s or more",
    "one attempt: 20 times what the server usually takes",
)

_WEATHER: Final = {
    Phase.FAIR: "fair",
    Phase.OUTAGE: "outage",
    Phase.SETTLING: "recovered",
}

_PHRASES: Final = {
    "consecutive_failures": "{failed} failures in a row",
    "failure_rate": "{failed} of {calls} calls failed",
    "open_time_over": "time to probe",
    "probes_passed": "the probes passed",
    "probes_failed": "the probes failed",
    "open": "circuit open",
    "half_open_full": "probes taken",
    "attempts": "no attempts left",
    "deadline": "no time left",
    "budget exhausted": "no retry budget left",
    "HTTPStatusError": "answers of 503",
    "ReadError": "resets",
    "ReadTimeout": "silences of 3 s",
}


class Paper:
    """Prints to one stream, as wide as its terminal, in letters that it has.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        columns = shutil.get_terminal_size().columns
        self._width = max(40, min(WIDTH, columns - 2))
        self._narrow = self._width < WIDTH
        try:
            "".join(_GLYPHS).encode(stream.encoding or "utf-8")
            self._glyphs: dict[int, str] = {}
        except UnicodeEncodeError:
            self._glyphs = str.maketrans(_GLYPHS)

    def show(self, *lines: str) -> None:
        """Print lines, wrapped."""
        for line in lines:
            text = line.translate(self._glyphs)
            for part in textwrap.wrap(text, self._width, subsequent_indent="    ") or [
                ""
            ]:
                print(part, file=self._stream)
        self._stream.flush()

    def head(self, bare: str, protected: str, state: str) -> None:
        """Print the head of the lines of each second."""
        cell = self._cell
        self.show(f"  {'':5}{'':12}{bare:<{cell}}{protected:<{cell}}{state}")

    def tick(self, now: int, weather: str, log: Log, state: str) -> None:
        """Say what became known in the last second."""
        bare, protected = (
            _ended_between(requests, now - 1, now, bar=not self._narrow)
            for requests in (log.bare, log.protected)
        )
        self.show(
            f"  {now:>3} s {weather:<11} {bare:<{self._cell}}"
            f"{protected:<{self._cell}}{state}"
        )

    def compare(
        self, heads: Sequence[str], rows: Iterable[tuple[str, list[str]]]
    ) -> None:
        """Print a table of a title and two cells a row."""
        rule = "  " + "─" * (self._width - 4)
        width, cell = (24, 10) if self._narrow else (38, 16)
        self.show("", f"  {'':<{width}}" + "".join(f"{h:>{cell}}" for h in heads), rule)
        for title, cells in rows:
            told = "".join(f"{text:>{cell}}" for text in cells)
            self.show(f"  {title:<{width}}{told}")
        self.show(rule)

    def count(self, title: str, counts: Mapping[str, int]) -> None:
        """Print what was counted, by what it is called."""
        words = [f"{n} {_PHRASES.get(word, word)}" for word, n in counts.items()]
        self.show(f"  {title:<13}{', '.join(words) or 'nothing'}")

    @property
    def _cell(self) -> int:
        """Columns for what one client got in a second."""
        return 11 if self._narrow else 24


class Report(Paper):
    """What the first act prints."""

    def plan(self, day: Day, pipeline: Pipeline) -> None:
        """Say what is about to happen."""
        self.show(
            *wrapped(
                "One server, one bad day, two clients. Both are an"
                f" httpx.AsyncClient(timeout={PATIENCE:g}) and send the same"
                f" {RATE} requests a second for {day.seconds} s, at the same times."
                " The protected one goes through this pipeline, outermost first:"
            ),
            "",
        )
        for policy, reason in zip(pipeline.policies, _REASONS, strict=True):
            self.show(f"  {policy!r}", *wrapped(reason, "      "))
        self.show(
            "",
            *wrapped(
                f"On this day (seed {day.seed}) {LOSS:.1%} of the requests meet a"
                " 503, a reset or a silence, bare or protected. The server is"
                f" out from {day.outage:g} s to {day.recovery:g} s. Calls"
                " answered, second by second:"
            ),
            "",
        )
        self.head("bare", "protected", "circuit")

    def second(self, now: int, log: Log, day: Day) -> None:
        """Say what became known in the last second."""
        over = now > day.seconds
        weather = "last calls" if over else _WEATHER[day.phase(now - 0.5)]
        self.tick(now, weather, log, _circuit(log))

    def table(self, results: Results) -> None:
        """Show the results."""
        self.compare(["bare", "protected"], _rows(results.bare, results.protected))
        for transition in results.circuit:
            change = f"{transition.old} → {transition.new}".replace("_", "-")
            phrase = _PHRASES.get(transition.reason, transition.reason)
            why = phrase.format(calls=transition.calls, failed=transition.failed)
            title = "circuit" if transition is results.circuit[0] else ""
            self.show(f"  {title:<12}{transition.at:>6.2f} s  {change:<22}{why}")
        for title, counts in (
            ("rejected", results.rejected),
            ("gave up", results.gave_up),
            ("cut short", {f"after {s} s": n for s, n in results.cut_short.items()}),
            ("bare lost", results.bare.errors),
        ):
            self.count(title, counts)
        self.show("", *wrapped(_moral(results)))


def _rows(*clients: Figures) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table: a title and a cell for each client."""
    for phase, title in (
        (Phase.FAIR.value, "answered in fair weather"),
        (Phase.SETTLING.value, "  in the 3 s of recovery"),
    ):
        yield title, [f"{client.answered[phase]:.1%}" for client in clients]
    yield (
        "attempts in the outage",
        [f"{client.attempts_in_outage}" for client in clients],
    )
    yield "p50 in fair weather", [f"{client.p50 * 1000:.0f} ms" for client in clients]
    yield "p99 in fair weather", [f"{client.p99 * 1000:.0f} ms" for client in clients]
    yield (
        "attempts per request",
        [f"{client.attempts_per_request:.2f}" for client in clients],
    )
    yield (
        "answered in the outage",
        [f"{client.answered[Phase.OUTAGE.value]:.1%}" for client in clients],
    )
    yield "answered, all day", [f"{client.answered['all']:.1%}" for client in clients]
    yield "requests", [f"{client.requests}" for client in clients]


def _moral(results: Results) -> str:
    bare, protected = results.bare, results.protected
    fair = Phase.FAIR.value
    share = protected.attempts_in_outage / bare.attempts_in_outage
    return (
        f"In fair weather the bare client lost {1 - bare.answered[fair]:.1%} of its"
        f" requests, the protected one {1 - protected.answered[fair]:.1%}. While the"
        f" server was out, the protected one spared it {1 - share:.0%} of the"
        " attempts, and its callers the wait; the price is up to a second after the"
        " recovery in which the breaker does not know of it yet."
    )


def _ended_between(
    requests: Sequence[Request], begin: float, end: float, *, bar: bool
) -> str:
    ended = [
        request
        for request in requests
        if request.ended is not None and begin <= request.ended < end
    ]
    good = sum(request.error is None for request in ended)
    if not ended:
        return "–"
    if not bar:
        return f"{good} of {len(ended)}"
    full = "█" * round(10 * good / len(ended))
    return f"{full:░<10} {good:>3} of {len(ended)}"


def _circuit(log: Log) -> str:
    changes = [event for _, event in log.events if isinstance(event, CircuitChanged)]
    return changes[-1].new.replace("_", "-") if changes else "closed"


def wrapped(text: str, indent: str = "") -> list[str]:
    """Wrap a text to the width."""
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
