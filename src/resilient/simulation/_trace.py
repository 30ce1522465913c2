"""Recorded traffic: requests with their moments, and how each ended.

Ground rules:

* A file is read once, line by line. What is kept of a request are numbers: no text of
  a key, and of a key no query string, which may be secret.
* Requests are in the order in which they came. A file in another order is sorted, and
  how many lines that took is told; a gap stays one.
* Moments count from the first request.
"""

from __future__ import annotations

import math
import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Final

import attrs

from resilient._values.checks import choice
from resilient._values.priority import PRIORITIES, Priority
from resilient.simulation._chance import Distribution, constant_time, quantile_time
from resilient.simulation._formats import FORMATS, Row, Text, detected, rows_of

MOST_ROWS: Final = 2_000_000
MOST_KEYS: Final = 200_000
LONGEST_LINE: Final = 1 << 24
MOST_BYTES: Final = 1 << 30
"""Of a line: a message of spans may have thousands of them; and of a file."""

LONGEST: Final = 7 * 86_400
"""Seconds from the first request to the last. More is another unit, not a trace."""

_MOST_ERRORS: Final = 1_000
_SHARES: Final = (0.1, 0.5, 0.9, 0.99, 0.999)
_WINDOW: Final = 10


@attrs.frozen(eq=False, repr=False)
class Trace:
    """Recorded requests, in the order in which they came; see `read_trace`.

    Attributes:
        source: The file.
        at: When each came, in seconds after the first.
        latency: How long each took, in seconds; NaN: it is not recorded.
        ends: How each ended: its place in `errors`.
        errors: The errors of all; "", the first, is an answer.
        keys: The number of its key, from 0; None: there are none.
        different_keys: How many keys there are.
        priorities: The `Priority` of each; None: there are none.
        moved: Lines that were not in the order of their moments.
    """

    source: str
    at: array[float]
    latency: array[float]
    ends: array[int]
    errors: tuple[str, ...]
    keys: array[int] | None
    different_keys: int
    priorities: array[int] | None
    moved: int

    def __repr__(self) -> str:
        return f"<Trace {self.source!r}, {len(self.at)} requests>"

    @property
    def duration(self) -> int:
        """Whole seconds that a run of it takes, >= 10."""
        return max(10, int(self.at[-1]) + 1)

    @property
    def has_latencies(self) -> bool:
        """Whether it says of any request how long it took."""
        return not all(map(math.isnan, self.latency))

    @property
    def told(self) -> str:
        """What it is, in one line: how many requests, what was sorted, and a gap."""
        text = f"{self.source}: {len(self.at)} requests"
        failed = len(self.ends) - self.ends.count(0)
        if failed:
            text += f", {failed} failed"
        if self.moved:
            text += f"; {self.moved} lines were out of order and are sorted"
        gap, since = max(
            ((after - before, before) for before, after in pairwise(self.at)),
            default=(0.0, 0.0),
        )
        if gap >= _WINDOW:
            text += f"; none came for {gap:.0f} s from second {since:.0f}"
        return text

    def place_near(self, now: float, within: float, share: float) -> int:
        """Return one of the requests of about a moment, or else the nearest.

        Args:
            now: The moment.
            within: Seconds around it.
            share: Which of them, in [0, 1).
        """
        low = bisect_left(self.at, now - within)
        high = bisect_left(self.at, math.nextafter(now + within, math.inf))
        if low < high:
            return low + int(share * (high - low))
        around = [place for place in (low - 1, low) if 0 <= place < len(self.at)]
        return min(around, key=lambda place: abs(self.at[place] - now))

    def service(self) -> Distribution:
        """Return how long work takes while there is nothing to wait for.

        These are percentiles of answers of the quiet windows of ten seconds, which
        have half of all requests. In busy ones latencies have the queue in them,
        which a model adds itself.

        Raises:
            ValueError: No latency of an answer is recorded.
        """
        windows = Counter(int(at) // _WINDOW for at in self.at)
        quiet, had = set[int](), 0
        for window, count in sorted(windows.items(), key=lambda each: each[::-1]):
            if 2 * had >= len(self.at):
                break
            quiet.add(window)
            had += count
        times = sorted(
            max(latency, 1e-6)
            for at, latency, end in zip(self.at, self.latency, self.ends, strict=True)
            if not end and latency >= 0 and int(at) // _WINDOW in quiet
        )
        if not times:
            raise ValueError(f"{self.source} has no latencies of answers to fit")
        found: dict[float, float] = {}
        for share in _SHARES:
            time = times[int(share * len(times))]
            if not found or time > max(found.values()):
                found[share] = time
        return constant_time(times[0]) if len(found) < 2 else quantile_time(found)


def read_trace(path: str | os.PathLike[str], format: str | None = None) -> Trace:
    """Read recorded traffic.

    A line is a request. Its columns, or keys in JSON, are ``at``, or in its place
    ``end`` for logs that are written at the end of a request: seconds, or a time as
    ISO 8601 writes it; ``latency`` in seconds; ``outcome``: a status or the name of
    an error; ``key``; ``priority``. One of the first two is needed. Where all moments
    are whole seconds, requests are spread evenly over each second.

    Statuses of 500 and more, 429, 499 and 0 are failures, as are all words but "ok".

    Args:
        path: Of the file, of two million requests at most.
        format: "csv", with a line of names; "jsonl"; "nginx": the combined log, at
            best with ``$request_time`` at the end of its lines; "envoy": its default
            log; "otel-spans": client spans as the collector's file exporter writes
            them. None: what the first line looks like.

    Raises:
        OSError: It cannot be read.
        ValueError: A line is none; the text has the file, the line, the rule and the
            value.
    """
    if format is not None:
        choice("format", format, *FORMATS)
    source = os.fspath(path)
    reader = _Reader()
    line = size = 0
    read: Text | None = None
    with open(path, "rb") as file:
        try:
            while raw := file.readline(LONGEST_LINE + 1):
                line += 1
                size += len(raw)
                if len(raw) > LONGEST_LINE or size > MOST_BYTES:
                    raise ValueError(
                        f"a line must have <= {LONGEST_LINE} bytes, and a file <="
                        f" {MOST_BYTES}: cut it to the minutes that matter"
                    )
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8", "replace")
                text = text.strip()
                if not text:
                    continue
                if read is None:
                    read = rows_of(format or detected(text))
                for row in read(text):
                    reader.add(row)
        except ValueError as error:
            raise ValueError(f"{source}, line {line}: {error}") from None
    if not reader.at:
        raise ValueError(f"{source} has no requests")
    return reader.trace(source)


class _Reader:
    """What was read so far."""

    def __init__(self) -> None:
        self.at = array("d")
        self._latency = array("d")
        self._ends = array("H")
        self._keys = array("I")
        self._priorities = array("b")
        self._errors: dict[str, int] = {"": 0}
        self._numbers: dict[bytes, int] = {}
        self._low, self._high = math.inf, -math.inf
        # Whether all moments are whole seconds; and of which the end is known.
        self._are_whole = True
        self._are_ends = array("b")

    def add(self, row: Row) -> None:
        """Take a request.

        Raises:
            ValueError: It is none that could be.
        """
        if len(self.at) >= MOST_ROWS:
            raise ValueError(
                f"a trace must have <= {MOST_ROWS} requests: cut it to the minutes"
                " that matter"
            )
        at = row.at
        self._low, self._high = min(self._low, at), max(self._high, at)
        if self._high - self._low > LONGEST:
            raise ValueError(
                f"`{'end' if row.is_end else 'at'}` must be within 7 days of all"
                f" others, in seconds, got {at!r}"
            )
        self._are_whole = self._are_whole and at.is_integer()
        self._are_ends.append(row.is_end)
        self.at.append(at)
        self._latency.append(row.latency)
        self._ends.append(self._end_of(row.error))
        self._keys.append(self._key_of(row.key))
        self._priorities.append(_priority_of(row.priority))

    def _end_of(self, error: str) -> int:
        if error not in self._errors and len(self._errors) >= _MOST_ERRORS:
            # NB: a column of texts that are all different would be kept else.
            error = "failed"
        return self._errors.setdefault(error, len(self._errors))

    def _key_of(self, key: str | None) -> int:
        if key is None:
            return 0
        digest = blake2b(
            key.partition("?")[0].encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        number = self._numbers.setdefault(digest, len(self._numbers))
        if number >= MOST_KEYS:
            raise ValueError(
                f"`key` must have <= {MOST_KEYS} different values: give a tenant or a"
                " route, or leave it out"
            )
        return number

    def trace(self, source: str) -> Trace:
        """Return what was read, in order."""
        at, latency = self.at, self._latency
        moved = sum(before > after for before, after in pairwise(at))
        if self._are_whole:
            _spread(at)
        for place, took in enumerate(latency):
            if self._are_ends[place] and not math.isnan(took):
                at[place] -= took
        order: Sequence[int] = range(len(at))
        if any(before > after for before, after in pairwise(at)):
            order = sorted(order, key=at.__getitem__)
        first = at[order[0]]
        return Trace(
            source,
            array("d", (at[place] - first for place in order)),
            array("d", (latency[place] for place in order)),
            array("H", (self._ends[place] for place in order)),
            tuple(self._errors),
            array("I", (self._keys[place] for place in order))
            if self._numbers
            else None,
            len(self._numbers),
            array("b", (self._priorities[place] for place in order))
            if any(each != Priority.NORMAL for each in self._priorities)
            else None,
            moved,
        )


def _spread(at: array[float]) -> None:
    """Spread requests whose moments are whole seconds evenly over their second."""
    counts, seen = Counter(at), Counter[float]()
    for place, second in enumerate(at):
        at[place] += seen[second] / counts[second]
        seen[second] += 1


def _priority_of(name: str | None) -> int:
    if name is None:
        return Priority.NORMAL
    if name not in PRIORITIES:
        known = [str(each) for each in PRIORITIES]
        raise ValueError(f"`priority` must be one of {', '.join(known)}, got {name!r}")
    return PRIORITIES[name]
