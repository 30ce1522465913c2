"""What a server's headers say about when to come back, and how much is left.

Ground rules:

* Pure: headers and readings of clocks in, seconds out. What cannot be read is
  as good as not sent; nothing here ever raises.
* A date is measured against the response's own ``Date`` where it has one, so
  that a server whose clock is wrong still asks for the wait it means.
* Numbers are plain decimals. ``-5``, ``1e9``, ``nan`` and ``abc`` are garbage.

============================== =========================================
``retry-after-ms``             milliseconds (OpenAI, Azure)
``Retry-After``                seconds or a date, RFC 9110, 10.2.3
``RateLimit``                  ``"name";r=9;t=30``, draft-ietf-httpapi-
                               ratelimit-headers-10, and the older
                               ``limit=9, remaining=0, reset=30``
``RateLimit-Policy``           ``"name";q=100;w=60;qu="requests"``
``[X-]RateLimit-Remaining``,   one header each, the unit behind a dash as
``[X-]RateLimit-Reset``        in ``x-ratelimit-remaining-tokens``: seconds,
                               a moment in Unix time, or ``6m0s``, ``20ms``
============================== =========================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol


class Headers(Protocol):
    """A response's headers, as both families of clients have them."""

    def get(self, key: str, default: str | None = None) -> str | None:
        """Return a header, several of one name joined by commas."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in lower case."""
        ...


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


REQUESTS = "requests"

_DECIMAL = re.compile(r"\d+(\.\d+)?", re.ASCII)
_DURATION = re.compile(
    r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?"
    r"(?:(\d+(?:\.\d+)?)ms)?",
    re.ASCII,
)
_SECONDS_IN = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
# Members of a structured list: a quoted name and its parameters, RFC 9651.
_MEMBER = re.compile(r'"((?:[^"\\]|\\.)*)"((?:\s*;\s*[a-z*][\w.*-]*(?:=[^;,]*)?)*)')
_PARAMETER = re.compile(r';\s*([a-z*][\w.*-]*)="?([^;,"]*)"?')
_PAIR = re.compile(r"\b(remaining|reset)\s*=\s*(\d+(?:\.\d+)?)", re.ASCII)
_REMAINING = re.compile(r"(x-)?ratelimit-remaining(?:-([\w-]+))?", re.ASCII)

# NB: what is absurdly long is too long, and not infinite: limits and texts are
# computed from it.
_MOST = 1e15

# Any number above is a moment of Unix time, not a wait: 31 years of seconds.
_EPOCH = 1e9
_EPOCH_MS = 1e12


def retry_after(headers: Headers, wall: float) -> float | None:
    """Return the seconds after which the server wants to be asked again.

    Args:
        headers: The response's.
        wall: Unix time, for dates in a response without a ``Date``.

    Returns:
        Seconds >= 0; None where it does not say, or not so that it could be
        understood.
    """
    milliseconds = _decimal(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    if text is not None:
        seconds = _decimal(text)
        if seconds is not None:
            return seconds
        moment = _moment(text)
        if moment is not None:
            return max(0.0, moment - _server_time(headers, wall))
    return max(
        (one.reset for one in allowances(headers, wall) if one.remaining == 0),
        default=None,
    )


def allowances(headers: Headers, wall: float) -> list[Allowance]:
    """Return what the server still grants, the scarcest of each unit.

    Args:
        headers: The response's.
        wall: Unix time, for moments in a response without a ``Date``.
    """
    scarcest: dict[str, Allowance] = {}
    for one in _all_allowances(headers, wall):
        known = scarcest.get(one.unit)
        if known is None or one.remaining < known.remaining:
            scarcest[one.unit] = one
    return list(scarcest.values())


def _all_allowances(headers: Headers, wall: float) -> Iterator[Allowance]:
    field = headers.get("ratelimit")
    if field is not None:
        units = {
            name: parameters.get("qu", REQUESTS)
            for name, parameters in _members(headers.get("ratelimit-policy") or "")
        }
        for name, parameters in _members(field):
            remaining = _decimal(parameters.get("r"))
            reset = _decimal(parameters.get("t"))
            if remaining is not None and reset is not None:
                yield Allowance(units.get(name, REQUESTS), remaining, reset)
        pairs = dict(_PAIR.findall(field))
        if len(pairs) == 2:
            remaining, reset = _number(pairs["remaining"]), _number(pairs["reset"])
            yield Allowance(REQUESTS, remaining, reset)
    for key in headers:
        match = _REMAINING.fullmatch(key)
        if match is not None:
            remaining = _decimal(headers.get(key))
            text = headers.get(key.replace("remaining", "reset"))
            reset = _reset(text, headers, wall)
            if remaining is not None and reset is not None:
                yield Allowance(match[2] or REQUESTS, remaining, reset)


def _members(field: str) -> Iterator[tuple[str, dict[str, str]]]:
    for name, parameters in _MEMBER.findall(field):
        yield (
            name,
            {key: value.strip() for key, value in _PARAMETER.findall(parameters)},
        )


def _decimal(text: str | None) -> float | None:
    if text is None or _DECIMAL.fullmatch(text.strip()) is None:
        return None
    return _number(text)


def _number(text: str) -> float:
    return min(float(text), _MOST)


def _reset(text: str | None, headers: Headers, wall: float) -> float | None:
    if text is None:
        return None
    number = _decimal(text)
    if number is not None:
        if number < _EPOCH:
            return number
        moment = number / 1000 if number >= _EPOCH_MS else number
        return max(0.0, moment - _server_time(headers, wall))
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    parts = zip(match.groups(default="0"), _SECONDS_IN, strict=True)
    return sum(_number(amount) * seconds for amount, seconds in parts)


def _server_time(headers: Headers, wall: float) -> float:
    text = headers.get("date")
    moment = None if text is None else _moment(text)
    return wall if moment is None else moment


def _moment(text: str) -> float | None:
    """Return the Unix time of an HTTP date, in any of its three formats."""
    if not text[:3].isalpha():
        # The parser is lenient: it would take half a number for a day.
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            # The asctime format, and ``-0000``: always UTC in HTTP.
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None
