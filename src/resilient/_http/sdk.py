"""Tell of an SDK whose own retries multiply those of its transport.

openai and anthropic send a request three times, and each of those three times
as often as the transport does: nine for one call. Two things show it:

* its ``x-stainless-retry-count``, which the SDKs that Stainless generates send;
* the same request at once after the transport gave up on it: the same object,
  as a transport around this one sends it, or an equal one from code that is
  installed beside the client. What a user's own code sends again is no SDK's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from weakref import ReferenceType, ref

from resilient._errors.warnings import caller_is_installed, warn
from resilient._runtimes import clock

_AT_ONCE: Final = 2.0
"""Seconds: openai's and anthropic's first pause is one at most, httpx-retries'
half of one. Who polls is slower."""

_LONGEST: Final = 60.0
"""Seconds: what the SDKs that count wait for at most if a server asks for it."""

_COUNT: Final = "x-stainless-retry-count"


class SdkRetries:
    """Tells, once, of requests that are sent again by an SDK.

    Args:
        library: The client library.
        raised: Called with the text where a filter makes an error of it.

    Attributes:
        pending: Whether there is a request that it looks out for.
    """

    def __init__(self, library: Any, raised: Callable[[str], object]) -> None:
        self.pending: bool = False
        self._told = False
        self._library = library
        self._raised = raised
        self._given_up: ReferenceType[Any] | None = None
        self._key: tuple[object, ...] = ()
        self._at = 0.0
        self._attempts = 0

    def gave_up(self, request: Any, attempts: int) -> None:
        """Take note that the transport gave up on a request."""
        if not self._told:
            self._given_up, self._key = ref(request), _key(request)
            self._at, self._attempts = clock.now(), attempts
            self.pending = True

    def look_at(self, request: Any) -> None:
        """Tell of a request that is the one that was given up."""
        ago = clock.now() - self._at
        if ago > _LONGEST:
            self.pending = False
            return
        if request is not (self._given_up and self._given_up()):
            if _key(request) != self._key:
                return
            counted = request.headers.get(_COUNT, "0") != "0"
            at_once = ago <= _AT_ONCE and caller_is_installed(self._library)
            if not (counted or at_once):
                return
        self.pending, self._told = False, True
        warn(
            f"this request comes again, though its transport has sent it"
            f" {self._attempts} times and given up: the retries of an SDK, or of a"
            " transport around this one, multiply ours; switch them off, as by"
            " max_retries=0 of an OpenAI or Anthropic client",
            past=self._library,
            raised=self._raised,
        )


def _key(request: Any) -> tuple[object, ...]:
    """Return what makes a request the same; one whose body streams is another."""
    body = getattr(request.stream, "_stream", None)
    content = (len(body), hash(body)) if isinstance(body, bytes) else object()
    return request.method, request.url, content
