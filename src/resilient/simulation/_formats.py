"""The formats of recorded traffic: what a line says of requests.

Source: *Module ngx_http_log_module* of nginx's documentation for "combined"; *Access
logging* of Envoy's for its default format string; *OTLP/JSON* of OpenTelemetry's
protocol specification, which the collector's file exporter writes, one message a line.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, TypeAlias, cast

from resilient._values.checks import seconds
from resilient.simulation._near import near

COLUMNS: Final = ("at", "end", "latency", "outcome", "key", "priority")

LONGEST_LATENCY: Final = 86_400
"""Seconds. More is another unit."""

# Values that say nothing.
_NONE: Final = ("", "-", None)

_LATEST: Final = 1e11
"""Seconds since 1970, in the year 5138. More are milliseconds."""


class Row(NamedTuple):
    """What a line says of a request.

    Attributes:
        at: When it came, in seconds since any moment.
        is_end: Whether that is when it ended.
        latency: How long it took, in seconds; NaN: it is not said.
        error: How it failed; "": it was answered.
        key: Its key, if any.
        priority: Its priority, if any.
    """

    at: float
    is_end: bool = False
    latency: float = math.nan
    error: str = ""
    key: str | None = None
    priority: str | None = None


Text: TypeAlias = Callable[[str], Iterable[Row]]
"""Reads a line, of which none is empty."""


def detected(line: str) -> str:
    """Return the format that a first line looks like."""
    if line.startswith("{"):
        return "otel-spans" if '"resourceSpans"' in line else "jsonl"
    if _ENVOY.match(line):
        return "envoy"
    return "nginx" if _NGINX.match(line) else "csv"


def rows_of(format: str) -> Text:
    """Return what reads the lines of a file in a format."""
    return FORMATS[format]()


class _Csv:
    """Lines of values, of which the first has their names."""

    def __init__(self) -> None:
        self._names: list[str] | None = None

    def __call__(self, line: str) -> Iterable[Row]:
        try:
            [values] = csv.reader([line], strict=True)
        except csv.Error as error:
            raise ValueError(f"no line of CSV: {error}") from None
        values = [value.strip() for value in values]
        if self._names is None:
            _columns(values)
            if len(set(values)) < len(values):
                raise ValueError(f"a column is named twice, got {line!r}")
            self._names = values
            return ()
        if len(values) != len(self._names):
            raise ValueError(
                f"a line must have {len(self._names)} values, as the first has, got"
                f" {len(values)}"
            )
        pairs = zip(self._names, values, strict=True)
        return (_row({name: value for name, value in pairs if value not in _NONE}),)


class _Jsonl:
    """Objects, one a line."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] = ()

    def __call__(self, line: str) -> Iterable[Row]:
        given = _object(line)
        names = tuple(given)
        if names != self._known:
            _columns(names)
            self._known = names
        return (_row({name: v for name, v in given.items() if v not in _NONE}),)


def _columns(names: Iterable[str]) -> None:
    """Refuse columns that are not known, or too few."""
    found = list(names)
    for name in found:
        if name not in COLUMNS:
            hint = near(name, COLUMNS) or f"there are {', '.join(COLUMNS)}"
            raise ValueError(f"column `{name}` is not known: {hint}")
    if ("at" in found) is ("end" in found):
        raise ValueError(
            f"columns must have `at` or `end`, and not both, got {', '.join(found)}"
        )


def _row(given: Mapping[str, Any]) -> Row:
    moment = "at" if "at" in given else "end"
    if moment not in given:
        raise ValueError("`at` or `end` is missing")
    when = _moment(moment, given[moment])
    latency = _latency(given["latency"]) if "latency" in given else math.nan
    key, priority = given.get("key"), given.get("priority")
    return Row(
        when,
        moment == "end",
        latency,
        _error_of(given.get("outcome", "")),
        None if key is None else str(key),
        None if priority is None else str(priority),
    )


def _moment(name: str, given: object) -> float:
    """Read seconds, or a time as ISO 8601 writes it."""
    found = _float(given)
    if found is None:
        try:
            read = datetime.fromisoformat(str(given))
        except ValueError:
            raise ValueError(
                f"`{name}` must be seconds or a time as ISO 8601 writes it, got"
                f" {given!r}"
            ) from None
        if read.tzinfo is None:
            read = read.replace(tzinfo=UTC)
        found = read.timestamp()
    found = seconds(name, found)
    if found > _LATEST:
        raise ValueError(f"`{name}` must be in seconds, got {given!r}")
    return found


def _latency(given: object, scale: float = 1.0) -> float:
    found = _float(given)
    if found is None:
        raise ValueError(f"`latency` must be seconds, got {given!r}")
    found = scale * seconds("latency", found)
    if found > LONGEST_LATENCY:
        raise ValueError(
            f"`latency` must be <= {LONGEST_LATENCY} seconds, got {given!r}"
        )
    return found


def _float(given: object) -> float | None:
    """Return a number, or the number that a text is; None: it is none."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    try:
        return float(given)
    except (OverflowError, ValueError):
        return None


def _error_of(outcome: object) -> str:
    """Return how a request failed by its status, or the name of an error; "": not."""
    text = str(outcome).strip()
    if isinstance(outcome, str) and not text.isdecimal():
        return "" if text.lower() in ("", "ok") else text[:100]
    if not text.isdecimal() or (text != "0" and not 100 <= int(text[:4]) <= 599):
        raise ValueError(
            f"`outcome` must be a status from 100 to 599, 0 for none, ok or an error,"
            f" got {outcome!r}"
        )
    # NB: 499 is nginx's for a caller that left, and 0 Envoy's.
    failed = text in ("0", "429", "499") or text >= "500"
    return f"status {text}" if failed else ""


_NGINX: Final = re.compile(
    r'\S+ \S+ [^\[]*\[(?P<at>[^\]]+)\] "[^"]*" (?P<status>\d{3}) \S+'
    r'(?: "[^"]*" "[^"]*")?(?:.*? "?(?P<latency>\d+\.\d+)"?$)?'
)
_LOCAL: Final = re.compile(
    r"(\d\d)/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"
)
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _nginx(line: str) -> Iterable[Row]:
    found = _NGINX.match(line)
    if found is None:
        raise ValueError(f"no line of nginx's combined log, got {line[:80]!r}")
    end = _local(found["at"])
    text = found["latency"]
    latency = math.nan if text is None else _latency(text)
    return (Row(end, True, latency, _error_of(found["status"])),)


def _local(text: str) -> float:
    found = _LOCAL.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        raise ValueError(
            f"a time must be as in 10/Oct/2000:13:55:36 -0700, got {text!r}"
        )
    month = 1 + _MONTHS.index(found[2])
    away = timedelta(hours=int(found[8]), minutes=int(found[9]))
    zone = timezone(away if found[7] == "+" else -away)
    day, year, hour, minute, second = (int(found[n]) for n in (1, 3, 4, 5, 6))
    return datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp()


_ENVOY: Final = re.compile(
    r'\[(?P<at>\d{4}-[^\]]+)\] "[^"]*" (?P<status>\d+) \S+'
    r'(?: \S+ \S+ "[^"]*")? \d+ \d+ (?P<took>\d+) '
)


def _envoy(line: str) -> Iterable[Row]:
    found = _ENVOY.match(line)
    if found is None:
        raise ValueError(f"no line of Envoy's default log, got {line[:80]!r}")
    latency = _latency(found["took"], 0.001)
    yield Row(_moment("at", found["at"]), False, latency, _error_of(found["status"]))


_CLIENT: Final = (3, "SPAN_KIND_CLIENT")
_FAILED: Final = (2, "STATUS_CODE_ERROR")
_STATUSES: Final = ("http.response.status_code", "http.status_code")


def _spans(line: str) -> Iterator[Row]:
    """Read the client spans of a message."""
    try:
        for resource in _object(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    if span.get("kind") in _CLIENT:
                        yield _span(span)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"no OTLP/JSON of spans, got {line[:80]!r}") from None


def _span(span: Mapping[str, Any]) -> Row:
    begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    latency = _latency(end - begin, 1e-9)
    error = ""
    for attribute in span.get("attributes", ()):
        if attribute["key"] in _STATUSES:
            error = _error_of(attribute["value"]["intValue"])
    if not error and span.get("status", {}).get("code") in _FAILED:
        error = "error"
    return Row(_moment("at", begin / 1e9), False, latency, error)


def _object(line: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except (RecursionError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"a line must be an object of JSON, got {line[:80]!r}")
    return cast("dict[str, Any]", found)


FORMATS: Final[Mapping[str, Callable[[], Text]]] = {
    "csv": _Csv,
    "jsonl": _Jsonl,
    "nginx": lambda: _nginx,
    "envoy": lambda: _envoy,
    "otel-spans": lambda: _spans,
}
