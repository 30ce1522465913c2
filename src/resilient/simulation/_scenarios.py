"""The scenarios that are built in."""

from __future__ import annotations

from typing import Final

from resilient.simulation._chance import exponential_time
from resilient.simulation._dependency import Dependency
from resilient.simulation._events import Capacity, Hang, Outage, Slowdown
from resilient.simulation._scenario import Scenario

_BUILT_IN: Final = (
    # Bronson, Aghayev, Charapko and Zhu, Metastable Failures in Distributed Systems,
    # HotOS 2021: an overload that outlasts its cause.
    Scenario(
        "retry-storm",
        rate=280,
        dependency=Dependency(servers=30, service=exponential_time(0.1)),
        events=[Outage(60, 70)],
    ),
    Scenario(
        "capacity-cut",
        rate=200,
        dependency=Dependency(servers=30, service=exponential_time(0.1)),
        events=[Capacity(60, 120, 0.5)],
    ),
    Scenario(
        "slow-dependency",
        rate=150,
        dependency=Dependency(servers=30, service=exponential_time(0.1)),
        events=[Slowdown(60, 120, 4.0)],
    ),
    Scenario(
        "hanging-calls",
        rate=150,
        dependency=Dependency(servers=30, service=exponential_time(0.1)),
        events=[Hang(60, 120, 0.05)],
    ),
)


def built_in(name: str) -> Scenario:
    """Return the scenario that is built in by a name.

    Raises:
        ValueError: There is none; the text says which there are.
    """
    for scenario in _BUILT_IN:
        if scenario.name == name:
            return scenario
    names = ", ".join(scenario.name for scenario in _BUILT_IN)
    raise ValueError(f"no scenario {name!r} is built in: there are {names}")


def scenarios() -> tuple[Scenario, ...]:
    """Return all scenarios that are built in."""
    return _BUILT_IN
