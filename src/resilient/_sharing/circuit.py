"""A circuit of this process as its fleet's store sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from resilient._machines.delegate import Delegate
from resilient._machines.quorum import CLOSED, FORCED, OPEN, RESET, Report, Verdict
from resilient._runtimes import clock
from resilient._sharing.member import SharedState
from resilient._sharing.store import SharedStore

__all__ = ["SharedCircuit"]

_VERDICTS: Final = {
    CLOSED: "closed",
    RESET: "closed",
    OPEN: "open",
    FORCED: "forced_open",
}

# Until the first answer to a report may be waited for: see `Delegate.next_at`.
_SOON = 0.5


class SharedCircuit(SharedState):
    """Passes reports and verdicts between a circuit and a store's link.

    Args:
        store: The store.
        name: The breaker's.
        delegate: The machine; its methods are called through `run`.
        run: Calls a function under the breaker's lock, with further arguments,
            and tells its listeners of the changes.
        open_time: Returns for how many seconds a circuit opens that opens for
            the nth time; no lock is held.
        emit: See `SharedState`.
    """

    __slots__ = ("_open_time", "delegate")

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        delegate: Delegate,
        run: Callable[..., Any],
        open_time: Callable[[int], float],
        emit: Callable[..., bool],
    ) -> None:

        def run_with_list(act: Callable[..., Any], *args: Any) -> Any:
            return run(act, [], *args)

        super().__init__(store, "circuit", name, run_with_list, emit)
        self.delegate = delegate
        self._open_time = open_time
        self._join(delegate)

    def saw_call(self, now: float, *, failed: bool) -> None:
        """Take note of a call; report if it is time. No lock may be held."""
        delegate = self.delegate
        delegate.saw_call(now, failed=failed)
        if now >= delegate.next_at:
            self.link.poll(now)
            if self.link.up:
                # NB: what is reported is what is there when it is collected.
                delegate.next_at = now + _SOON
                self.link.notify(self)

    def _details(self) -> dict[str, Any]:
        return {"circuit.fleet": _VERDICTS[self.delegate.verdict]}

    def force_open(self) -> None:
        """Force the circuits of all other members open."""
        self._order(FORCED)

    def reset(self) -> None:
        """Reset the circuits of all other members."""
        self._order(RESET)

    def _order(self, verdict: float) -> None:
        self.change(clock.now(), self.delegate.order, verdict)
        self._send_order()

    def _send_order(self) -> None:
        if self.delegate.has_order and self.link.up:
            self.link.notify(self)

    # -- Called by the link

    def collect(self, now: float) -> Report | None:
        report: Report | None = self.change(now, self.delegate.collect, now, self.id)
        if report is not None and report.failing and report.open <= CLOSED:
            # It may open the fleet's circuit.
            seconds = self._open_time(int(report.openings) + 1)
            report = report._replace(open_for=seconds)
        return report

    def surrender(self, now: float) -> Report | None:
        # What it has seen ends with the life of its row; an order does not.
        report = self.collect(now) if self.delegate.has_order else None
        if report is not None:
            self.change(now, self.delegate.end)
        return report

    def deliver(self, answer: Verdict, now: float, *, up: bool) -> None:
        self.change(now, self.delegate.absorb, now, answer)
        # It was given while another report was on its way.
        self._send_order()

    def fail(self, now: float, *, sent: bool) -> None:
        self.change(now, self.delegate.fail)

    def restore(self, now: float) -> int:
        self.change(now, self.delegate.restore)
        self._send_order()
        # Every call is decided by the circuit, with and without it.
        return 0
