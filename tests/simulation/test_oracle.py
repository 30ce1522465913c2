"""The event heap gives what asyncio and trio give, call by call."""

from __future__ import annotations

import pytest
from tests.simulation.oracle import (
    drawn,
    on_asyncio,
    on_the_heap,
    on_the_heap_in_tasks,
    on_trio,
)

from resilient.simulation import Dependency, Outage, Scenario, exponential_time

SCENARIO = Scenario(
    "drawn",
    rate=30,
    duration=10,
    clients=2,
    keys=12,
    dependency=Dependency(servers=4, service=exponential_time(0.06), failures=0.05),
    events=[Outage(4, 5.5)],
)


@pytest.mark.parametrize("seed", range(20))
def test_the_heap_gives_what_asyncio_gives(seed: int) -> None:
    """When each request was due and ended, and with what; in both edges."""
    policy = drawn(seed)
    ends = on_the_heap(policy, SCENARIO, seed)

    assert 200 < ends.total()
    assert on_asyncio(policy, SCENARIO, seed) == ends
    if seed % 3 == 0:
        assert on_the_heap_in_tasks(policy, SCENARIO, seed) == ends


@pytest.mark.parametrize("seed", range(2))
def test_the_heap_gives_what_trio_gives(seed: int) -> None:
    """The same, for fewer pipelines: trio takes longer."""
    policy = drawn(seed)

    assert on_trio(policy, SCENARIO, seed) == on_the_heap(policy, SCENARIO, seed)
