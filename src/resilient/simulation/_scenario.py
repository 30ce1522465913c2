"""A scenario: load, a dependency, and what happens to them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from resilient._values.checks import choice, count, number, optional
from resilient._values.checks import seconds as check_seconds
from resilient.simulation._dependency import Dependency
from resilient.simulation._events import Happening
from resilient.simulation._load import Arrivals

LEFT_OUT = (
    "Real policies, modelled load and dependency. Left out: network, connections,"
    " threads, garbage collection."
)
"""The first line of every report."""


def _all_of(events: Iterable[Happening]) -> tuple[Happening, ...]:
    return tuple(events)


@attrs.frozen
class Scenario:
    """What a configuration is put through.

    Attributes:
        name: What it is called in reports.
        rate: Requests a second, > 0, of all clients together.
        duration: Whole seconds in which requests come, >= 10. Those under way
            then are run to their end.
        clients: Processes that make the requests in turn, each with policies of
            its own, >= 1.
        arrivals: "poisson": at random; "constant": at equal distances.
        patience: Seconds after which the caller of a request gives up, whatever
            the policies do; None: it waits.
        keys: How many keys requests have, evenly, for `PerKey`, `Coalesce` and
            `StaleCache`. None: each its own.
        dependency: What is called.
        events: What happens to it, or to the load.

    Raises:
        TypeError, ValueError: One of them is out of range, by name.
    """

    name: str
    rate: float = attrs.field(default=100.0, kw_only=True)
    duration: int = attrs.field(default=300, kw_only=True)
    clients: int = attrs.field(default=10, kw_only=True)
    arrivals: Arrivals = attrs.field(default="poisson", kw_only=True)
    patience: float | None = attrs.field(default=None, kw_only=True)
    keys: int | None = attrs.field(default=None, kw_only=True)
    dependency: Dependency = attrs.field(factory=Dependency, kw_only=True)
    events: tuple[Happening, ...] = attrs.field(
        default=(), kw_only=True, converter=_all_of
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string, got {self.name!r}")
        number("rate", self.rate, minimum=0, exclusive=True)
        count("duration", self.duration, minimum=10)
        count("clients", self.clients, minimum=1)
        choice("arrivals", self.arrivals, "poisson", "constant")
        optional(check_seconds, "patience", self.patience, zero=False)
        optional(count, "keys", self.keys, minimum=1)
        for event in self.events:
            if not isinstance(event, Happening):
                raise TypeError(
                    f"`events` must be events, as Outage(60, 70) is, got {event!r}"
                )
            if event.end > self.duration:
                raise ValueError(
                    f"`events`: {event!r} ends after the run, which takes"
                    f" {self.duration} s"
                )

    @property
    def calm_from(self) -> int:
        """The second from which nothing is the matter any more."""
        return int(max((event.end for event in self.events), default=0.0))
