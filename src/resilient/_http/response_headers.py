"""What a server's headers say about when to come back, and how much is left.

Ground rules:

* Pure: header fields and a reading of the clock in, seconds out.
* The peer is not trusted. Nothing is read of a field longer than 1 kB, of a
  name longer than 64 bytes, or beyond 32 fields of a family, and every parser
  takes time in proportion to its input. What cannot be read is as good as not
  sent; nothing here raises.
* White space is what HTTP calls so: spaces and tabs (RFC 9110, 5.6.3).
* Numbers are plain ASCII decimals. ``-5``, ``1e9``, ``nan``, ``abc`` and
  anything above 10¹⁵ are garbage.
* A moment is measured against the response's own ``Date`` where it has one, so
  that a server whose clock is wrong still asks for the wait that it means.
* Of a field that is sent twice the later moment counts, and the smaller
  remainder.

============================== =========================================
``retry-after-ms``,            milliseconds (OpenAI, Azure)
``x-ms-retry-after-ms``
``Retry-After``                seconds or a date, RFC 9110, 10.2.3
``x-should-retry``             ``true`` or ``false`` (OpenAI, Anthropic)
``RateLimit``                  ``"name";r=9;t=30``, draft-ietf-httpapi-
                               ratelimit-headers-10, and the older
                               ``limit=9, remaining=0, reset=30``
``RateLimit-Policy``           ``"name";q=100;w=60;qu="requests"``
``…ratelimit-remaining-UNIT``, one field each, in any vendor's prefix and in
``…ratelimit-reset-UNIT``,     either order of words, as in
``…ratelimit-reset-after``     ``anthropic-ratelimit-tokens-reset``; without
                               a unit it is requests
============================== =========================================

A reset is a number of seconds, a moment in Unix time (s or ms), an RFC 3339
or HTTP date, or a duration as ``6m0s`` and ``20ms``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple


class Allowance(NamedTuple):
    """What a server still grants.

    Attributes:
        unit: What it counts: "requests", "tokens", …
        remaining: How many are left.
        reset: Seconds until it counts anew.
    """

    unit: str
    remaining: float
    reset: float


class Advice(NamedTuple):
    """What the fields of one response say.

    Attributes:
        retry_after: Seconds >= 0 after which the server wants to be asked
            again; None: it does not say.
        should_retry: Whether the server wants to be asked again at all; None:
            it does not say.
        allowances: What it still grants, the scarcest of each unit.
    """

    retry_after: float | None
    should_retry: bool | None
    allowances: tuple[Allowance, ...]


REQUESTS: Final = "requests"

LONGEST_FIELD: Final = 1024
"""Bytes of a value that are read. The longest that servers were seen to send,
a `RateLimit-Policy` of six policies, has 300."""

MOST_FIELDS: Final = 32
"""Fields of a family that are read. The most seen, of Anthropic, are 15."""

LONGEST_NAME: Final = 64
"""Bytes of a name that are read."""

_LONGEST_DATE: Final = 48
"""Characters of a date: the longest form that HTTP allows has 33."""

# Any number above is a moment of Unix time, not a wait: 31 years of seconds.
_EPOCH: Final = 1e9
_EPOCH_MS: Final = 1e12
_ABSURD: Final = 1e15

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_DURATION = re.compile(
    r"(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?"
    r"(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+(?:\.[0-9]+)?)ms)?"
)
_SECONDS_IN = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

_RETRY = (b"retry-after-ms", b"x-ms-retry-after-ms", b"retry-after", b"x-should-retry")
# NB: the longer word first, for the shorter one is a part of it.
_WORDS = ("remaining", "reset-after", "reset")

Fields = dict[str, list[str]]
"""The values of each field by its name in lower case, in the order they came."""


def read(raw: Iterable[tuple[bytes, bytes]], wall: float) -> Advice:
    """Return what header fields say.

    Args:
        raw: Names and values, in any case and order.
        wall: Unix time, for moments in a response without a ``Date``.
    """
    retry, rates, dates = _bounded(raw)
    server = next(filter(None, map(_moment, dates)), wall)
    granted = tuple(_scarcest(_allowances(rates, server)))
    wait = _retry_after(retry, server)
    if wait is None:
        wait = max(
            (allowance.reset for allowance in granted if allowance.remaining == 0),
            default=None,
        )
    return Advice(wait, _should_retry(retry), granted)


def ratelimit_field(name: str, remaining: int, reset: int) -> bytes:
    """Return the value of a ``RateLimit`` field for one limit, as `read` reads it.

    Args:
        name: Name of the limit: letters, digits, hyphens.
        remaining: Units left.
        reset: Seconds until there are more.

    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """
    return f'"{name}";r={remaining};t={reset}'.encode("ascii")


def ratelimit_policy_field(name: str, quota: int, window: int) -> bytes:
    """Return the value of a ``RateLimit-Policy`` field for one limit of requests.

    Args:
        name: As in its ``RateLimit`` field.
        quota: Requests.
        window: Seconds in which so many may come.

    Source: draft-ietf-httpapi-ratelimit-headers-11.
    """
    return f'"{name}";q={quota};w={window}'.encode("ascii")


def _bounded(
    raw: Iterable[tuple[bytes, bytes]],
) -> tuple[Fields, Fields, list[str]]:
    """Pick the fields that are read, no more than may be."""
    retry: Fields = {}
    rates: Fields = {}
    dates: list[str] = []
    retries = limits = 0
    for name, value in raw:
        if len(name) > LONGEST_NAME or len(value) > LONGEST_FIELD:
            continue
        name = name.lower()
        if name in _RETRY:
            retries += 1
            if retries <= MOST_FIELDS:
                _add(retry, name, value)
        elif b"ratelimit" in name or b"rate-limit" in name:
            limits += 1
            if limits <= MOST_FIELDS:
                _add(rates, name.replace(b"rate-limit", b"ratelimit"), value)
        elif name == b"date" and not dates and value.isascii():
            dates.append(value.decode("ascii"))
    return retry, rates, dates


def _add(fields: Fields, name: bytes, value: bytes) -> None:
    if name.isascii() and value.isascii():
        text = value.decode("ascii").strip(" \t")
        fields.setdefault(name.decode("ascii"), []).append(text)


def _retry_after(fields: Fields, server: float) -> float | None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _latest(fields, name, _decimal)
        if milliseconds is not None:
            return milliseconds / 1000

    def seconds(text: str) -> float | None:
        number = _decimal(text)
        return number if number is not None else _until(_moment(text), server)

    return _latest(fields, "retry-after", seconds)


def _should_retry(fields: Fields) -> bool | None:
    said = {text.lower() for text in fields.get("x-should-retry", ())}
    if said == {"true"}:
        return True
    return False if said == {"false"} else None


def _latest(
    fields: Fields, name: str, parse: Callable[[str], float | None]
) -> float | None:
    """Return the largest of a field's values; None if none can be read.

    Several of them may come as one, joined by commas, as proxies may do.
    """
    parsed: list[float | None] = []
    for text in fields.get(name, ()):
        whole = parse(text)
        if whole is None and "," in text:
            parts = [_decimal(part.strip(" \t")) for part in text.split(",")]
            if None not in parts:
                parsed += parts
        parsed.append(whole)
    return max(
        (allowance for allowance in parsed if allowance is not None), default=None
    )


# -- What is left


def _scarcest(allowances: Iterable[Allowance]) -> Iterable[Allowance]:
    scarcest: dict[str, Allowance] = {}
    for allowance in allowances:
        known = scarcest.get(allowance.unit)
        if known is None or (allowance.remaining, -allowance.reset) < (
            known.remaining,
            -known.reset,
        ):
            scarcest[allowance.unit] = allowance
    return scarcest.values()


def _allowances(fields: Fields, server: float) -> Iterator[Allowance]:
    yield from _structured(fields)
    # For each prefix and unit the remainders, and the resets of either kind.
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, texts in fields.items():
        prefix, _, rest = name.partition("ratelimit-")
        for word in _WORDS:
            if rest == word or rest.startswith(f"{word}-"):
                unit = rest[len(word) + 1 :]
            elif rest.endswith(f"-{word}"):
                unit = rest[: -len(word) - 1]
            else:
                continue
            told.setdefault((prefix, unit), {})[word] = texts
            break
    for (_, unit), words in told.items():
        remaining = [_decimal(text) for text in words.get("remaining", ())]
        left = min((number for number in remaining if number is not None), default=None)
        reset = _latest(words, "reset-after", _seconds)
        if reset is None:
            reset = _latest(words, "reset", lambda text: _reset(text, server))
        if left is not None and reset is not None:
            yield Allowance(unit or REQUESTS, left, reset)


def _structured(fields: Fields) -> Iterator[Allowance]:
    """Yield what `RateLimit` says, in its present form and in its older one."""
    units: dict[str, str] = {}
    for text in fields.get("ratelimit-policy", ()):
        for name, parameters in _members(text):
            units[name] = parameters.get("qu", REQUESTS)
    for text in fields.get("ratelimit", ()):
        pairs: dict[str, str] = {}
        for name, parameters in _members(text):
            remaining = _decimal(parameters.get("r", ""))
            reset = _decimal(parameters.get("t", ""))
            if remaining is not None and reset is not None:
                yield Allowance(units.get(name, REQUESTS), remaining, reset)
            key, _, value = name.partition("=")
            pairs[key.strip(" \t")] = value.strip(" \t")
        remaining = _decimal(pairs.get("remaining", ""))
        reset = _decimal(pairs.get("reset", ""))
        if remaining is not None and reset is not None:
            yield Allowance(REQUESTS, remaining, reset)


def _members(field: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the members of a structured list with their parameters, RFC 9651."""
    for member in _split(field, ","):
        name, *parameters = _split(member, ";")
        pairs = (parameter.partition("=") for parameter in parameters)
        yield _unquoted(name), {key.strip(" \t"): _unquoted(to) for key, _, to in pairs}


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside of a quoted string; one pass."""
    parts: list[str] = []
    start, quoted, escaped = 0, False, False
    for place, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = quoted
        elif char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return parts


def _unquoted(text: str) -> str:
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text


# -- Numbers and moments


def _decimal(text: str) -> float | None:
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = float(text)
    return None if number > _ABSURD else number


def _seconds(text: str) -> float | None:
    """Return a number of seconds, or those of a duration."""
    number = _decimal(text)
    return _duration(text) if number is None else number


def _duration(text: str) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    parts = zip(match.groups(default="0"), _SECONDS_IN, strict=True)
    total = sum(float(amount) * seconds for amount, seconds in parts)
    return None if total > _ABSURD else total


def _reset(text: str, server: float) -> float | None:
    number = _decimal(text)
    if number is None:
        seconds = _duration(text)
        return _until(_moment(text), server) if seconds is None else seconds
    if number < _EPOCH:
        return number
    return _until(number / 1000 if number >= _EPOCH_MS else number, server)


def _until(moment: float | None, server: float) -> float | None:
    """Return the seconds until a moment, on the server's clock."""
    return None if moment is None else max(0.0, moment - server)


def _moment(text: str) -> float | None:
    """Return the Unix time of a date: of HTTP in any form, or of RFC 3339."""
    if len(text) > _LONGEST_DATE:
        return None
    try:
        if _RFC_3339.fullmatch(text) is not None:
            return datetime.fromisoformat(text.upper()).timestamp()
        if not text[:3].isalpha():
            # The parser is lenient: it would take half a number for a day.
            return None
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            # The asctime format, and ``-0000``: always UTC in HTTP.
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except Exception:
        # NB: the standard library's parser is lenient in its errors too:
        # IndexError and TypeError were among them in the past.
        return None
