"""From the start of a server's process to its last byte: readiness and draining.

Ground rules:

* A server stops listening as soon as it is told to end, but its load balancer
  sends requests on for as long as it has not noticed. So SIGTERM makes the
  process unready at once, and the server's own handler runs `delay` later.
* A second SIGTERM is handed on at once, and SIGINT is never held back.
* What still runs `timeout` after that is cut, for the process will be killed.

========== ============ ===================================================
state      readiness    from
========== ============ ===================================================
STARTING   503          the beginning
SERVING    200, or what ``lifespan.startup.complete``, or the first request
           checks say   of a server that knows no lifespan
DRAINING   503          SIGTERM, or `Lifecycle.drain`
ENDED      503          ``lifespan.shutdown``
========== ============ ===================================================

Deliberately not modelled: which requests a load balancer has on the way. All
are served until the socket closes.

Source: Kubernetes, "Pod Lifecycle", termination of Pods; uvicorn 0.54 closes
its socket in the second of the signal.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import Enum
from typing import Any, Final

from resilient._errors.errors import TimeoutExceededError
from resilient._errors.warnings import warn
from resilient._events.events import DrainEnded
from resilient._events.listeners import broadcast
from resilient._observing.shown import show
from resilient._runtimes import clock
from resilient._runtimes.current import loaded
from resilient._server.answers import Answer, App, Message, Receive, Scope, Send
from resilient._server.exchange import Exchange
from resilient._values.checks import flag
from resilient._values.checks import seconds as seconds_argument
from resilient._values.records import Configured
from resilient.policies.coalesce import Coalesce
from resilient.policies.pipeline import Pipeline
from resilient.policies.stale_cache import StaleCache
from resilient.policies.timeout import Timeout

LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"

_PATIENCE: Final = 1.0
"""Seconds that all checks may take together, and for which their word holds: the
default of a Kubernetes probe's ``timeoutSeconds``."""

Check = Callable[[], "bool | Awaitable[bool]"]


class LifecycleState(Enum):
    """Where a server's process stands; see the module's table."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    ENDED = "ended"


class Lifecycle(Configured):
    """Lose no request when a server's process ends.

    ::

        lifecycle = Lifecycle(delay=5.0, timeout=25.0)
        app = ResilientMiddleware(app, lifecycle=lifecycle)

    On SIGTERM ``/readyz`` answers 503 at once, requests are served as before
    for `delay` seconds, then the server is told, and `timeout` seconds later
    what still runs is cancelled. Responses meanwhile say ``Connection: close``.
    ``/livez`` answers 200 all the time.

    One object is for one process; each worker has its own copy.

    Args:
        delay: Seconds for which the server goes on listening: as long as load
            balancers take to notice. Default 5, for a probe every second or
            two and the spreading of its news.
        timeout: Seconds after that which requests have to come to an end.
            Default 25: with `delay` the 30 seconds that Kubernetes grants.
        signals: Whether SIGTERM is delayed; False: call `drain` yourself.
        details: Whether ``/readyz`` names its state and checks, for everyone
            who can reach it.

    Raises:
        TypeError, ValueError: An argument has no meaning.
    """

    def __init__(
        self,
        *,
        delay: float | timedelta = 5.0,
        timeout: float | timedelta = 25.0,
        signals: bool = True,
        details: bool = False,
    ) -> None:
        self.delay: float = seconds_argument("delay", delay)
        self.timeout: float = seconds_argument("timeout", timeout)
        # NB: on Windows there is no signal to hand on.
        self._signals = flag("signals", signals) and hasattr(signal, "pthread_kill")
        self._details = flag("details", details)
        self._state = LifecycleState.STARTING
        self._under_way: list[set[Exchange]] = []
        self._checks: dict[str, Check] = {}
        # NB: a flood of probes costs one round of checks a second.
        shared = Pipeline(
            StaleCache(_PATIENCE, 0.0, key=lambda: 0), Coalesce(key=lambda: 0)
        )
        self._checked: Callable[[], Awaitable[tuple[tuple[str, str], ...]]] = shared(
            self._run_checks
        )
        # Calls the server's own handler; None: there is none of ours in front.
        self._hand_on: Callable[[], object] | None = None
        self._restore: Callable[[], object] | None = None
        self._handed_on = False
        # Whether there is a lifespan, which says when the server serves.
        self._spans = False
        self._drained_from = 0.0
        self._over = threading.Event()
        show(self)

    @property
    def state(self) -> LifecycleState:
        """Where the process stands."""
        return self._state

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets that the process works on."""
        return sum(len(one) for one in self._under_way)

    @property
    def name(self) -> str:
        """What it is called in events and by `health`."""
        return "lifecycle"

    def status(self) -> dict[str, Any]:
        """Return the ``state`` and what is ``in_flight``, for `health`."""
        return {"state": self._state.value, "in_flight": self.in_flight}

    def add_check(self, name: str, check: Check) -> None:
        """Have ``/readyz`` answer 503 while ``check()`` is false, fails or is late.

        All checks together have a second, and are asked once a second at most. A
        dependency whose circuit is open is no reason to be unready: the other
        answers of the process are still good.

        Args:
            name: Name for ``details``.
            check: A function without arguments, async or quick.

        Raises:
            TypeError, ValueError: The name is no text, or taken; `check` is no
                function.
        """
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {name!r}")
        if name in self._checks:
            raise ValueError(f"`name` must be new, got {name!r} again")
        if not callable(check):
            raise TypeError(f"`check` must be a function, got {check!r}")
        self._checks[name] = check

    def drain(self) -> None:
        """Begin the end: unready at once, then as after a SIGTERM.

        It returns at once, may be called from any thread or signal handler, and
        does nothing the second time.
        """
        if self._state in (LifecycleState.DRAINING, LifecycleState.ENDED):
            return
        self._state = LifecycleState.DRAINING
        self._drained_from = clock.now()
        # NB: a thread, for the loop may be blocked, and may end first; its locks
        # can be taken again by a handler that interrupts who has them.
        threading.Thread(
            target=self._drain, name="resilient drain", daemon=True
        ).start()

    # -- Probes

    async def probes(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``/livez`` and ``/readyz``: an ASGI application."""
        if scope["path"] == LIVEZ:
            answer = _answer(200, b"alive\n")
        elif scope["path"] == READYZ:
            answer = await self._readiness()
        else:
            answer = _answer(404, b"not found\n")
        await answer(scope, receive, send)

    async def _readiness(self) -> Answer:
        checks: dict[str, str] = {}
        ready = self._state is LifecycleState.SERVING
        if ready and self._checks:
            checks = dict(await self._checked())
            ready = all(one == "ok" for one in checks.values())
        status = 200 if ready else 503
        if self._details:
            told = {"state": self._state.value, "checks": checks}
            return _answer(status, json.dumps(told).encode(), b"application/json")
        return _answer(status, b"ready\n" if ready else b"not ready\n")

    async def _run_checks(self) -> tuple[tuple[str, str], ...]:
        until = clock.now() + _PATIENCE
        found: list[tuple[str, str]] = []
        for name, check in self._checks.items():
            found.append((name, await _run_check(check, until)))
        return tuple(found)

    # -- What the middleware tells

    def track(self, under_way: set[Exchange]) -> None:
        """Count, and in the end cut, the members of a set."""
        self._under_way.append(under_way)

    def is_draining(self) -> bool:
        """Whether connections should not be kept."""
        return self._state is LifecycleState.DRAINING

    def begin(self) -> None:
        """Note that a request has come."""
        if self._state is LifecycleState.STARTING and not self._spans:
            self._serve()

    async def lifespan(
        self, app: App, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass the lifespan on, and note what is said in it."""
        self._spans = True

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._end(0)
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._serve()
            await send(message)

        try:
            await app(scope, receiving, sending)
        finally:
            # An application without a lifespan serves all the same.
            self._spans = False

    def _serve(self) -> None:
        if self._state is LifecycleState.STARTING:
            self._state = LifecycleState.SERVING
            if self._signals:
                self._delay_signal()

    # -- Draining

    def _delay_signal(self) -> None:
        """Put a handler of ours in front of the server's."""
        if threading.current_thread() is not threading.main_thread():
            warn(
                "a Lifecycle cannot delay SIGTERM outside of the main thread: give it"
                " signals=False, and call drain() when the process is to end"
            )
            return
        loop = _running_loop()
        handle = getattr(loop, "_signal_handlers", {}).get(signal.SIGTERM)
        if handle is not None:
            # NB: a loop's handler is not Python's: the loop calls it when it
            # reads the signal's number from a pipe.
            self._hand_on = handle._run

            def restore() -> None:
                loop.add_signal_handler(signal.SIGTERM, handle._callback, *handle._args)

            self._restore = restore
            loop.add_signal_handler(signal.SIGTERM, self._signalled)
            return
        previous = signal.getsignal(signal.SIGTERM)
        if not callable(previous):
            warn(
                "a Lifecycle found no handler of SIGTERM to delay: give it"
                " signals=False, and call drain() when the process is to end"
            )
            return
        self._hand_on = lambda: previous(signal.SIGTERM, None)
        self._restore = lambda: signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGTERM, self._signalled)

    def _signalled(self, *_: object) -> None:
        if self._state is LifecycleState.SERVING:
            self.drain()
            return
        assert self._hand_on is not None
        self._handed_on = True
        self._hand_on()

    def _drain(self) -> None:
        """Tell the server after `delay`, and cut what runs after `timeout`."""
        self._over.wait(self.delay)
        if self._hand_on is not None and not (self._handed_on or self._over.is_set()):
            # NB: so that the handler runs where signal handlers do.
            os.kill(os.getpid(), signal.SIGTERM)
        if self._over.wait(self.timeout):
            return
        left = [exchange for one in self._under_way for exchange in list(one)]
        for exchange in left:
            exchange.cut()
        self._end(len(left))

    def _end(self, cut: int) -> None:
        if self._state is LifecycleState.ENDED:
            return
        drained = self._state is LifecycleState.DRAINING
        self._state = LifecycleState.ENDED
        self._over.set()
        main = threading.current_thread() is threading.main_thread()
        if self._restore is not None and main and not self._handed_on:
            self._restore()
        if drained:
            seconds = clock.now() - self._drained_from
            broadcast(DrainEnded(self.name, None, seconds, cut))


async def _run_check(check: Check, until: float) -> str:
    async def run() -> bool:
        result = check()
        return bool(await result if inspect.isawaitable(result) else result)

    left = until - clock.now()
    if left <= 0:
        return "late"
    try:
        good = await Timeout(left).acall(run)
    except TimeoutExceededError:
        return "late"
    except Exception:
        return "failed"
    if clock.now() > until:
        return "late"
    return "ok" if good else "failed"


def _running_loop() -> Any:
    """Return the event loop of asyncio that runs here, if one does."""
    running_loop = loaded("asyncio", "_get_running_loop")
    return None if running_loop is None else running_loop()


def _answer(status: int, body: bytes, kind: bytes = b"text/plain") -> Answer:
    headers = (
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    )
    return Answer(status, headers, body)
