"""What a transport was told about requests, checked."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs

from resilient._http.client_library import ClientLibrary
from resilient._http.routing import Routing
from resilient._values.checks import seconds


@attrs.frozen
class Rules:
    """What a transport was told about requests; see its arguments.

    Attributes:
        client_library: Whose requests they are.
    """

    client_library: ClientLibrary
    retry_unsafe: bool | Callable[[Any], bool]
    statuses: frozenset[int]
    methods: frozenset[str]
    idempotency_key: bool
    read_body: bool | str
    max_body: int
    stream_idle: float | str | None
    deadline_header: tuple[str, str] | None
    routing: Routing | None
    cost_of: Callable[[Any], Mapping[str, float] | None] | None


def is_repeatable(request: Any, rules: Rules) -> bool:
    """Whether a request may be sent twice by what was said of it, not of its method.

    It has an ``Idempotency-Key``, is given one here, or `retry_unsafe` says so.

    Raises:
        TypeError: `retry_unsafe` says neither True nor False.
    """
    headers = request.headers
    if "idempotency-key" in headers:
        return True
    if rules.idempotency_key:
        headers["Idempotency-Key"] = str(uuid.uuid4())
        return True
    allowed: object = request.extensions.get("resilient.retry_unsafe")
    if allowed is None:
        allowed = rules.retry_unsafe
        if not isinstance(allowed, bool):
            allowed = allowed(request)
    if not isinstance(allowed, bool):
        raise TypeError(
            "`retry_unsafe` must be True, False or a function of the request"
            f" that returns one of them, got {allowed!r}"
        )
    return allowed


def checked_idle(parameter: str, idle: Any) -> float | str | None:
    """Return how long a live stream may be silent: seconds, or "attempt".

    Raises:
        TypeError, ValueError: It is neither, nor None.
    """
    if idle is None or idle == "attempt":
        return cast("str | None", idle)
    return seconds(parameter, idle, zero=False)
