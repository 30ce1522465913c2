"""A circuit that several processes share, through a store in memory.

Breakers of one name are what as many processes have.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    CircuitBreaker,
    CircuitChanged,
    CircuitOpenError,
    CircuitState,
    StoreBack,
    StoreLost,
    calls,
    constant,
)
from resilient._machines.quorum import FORCED
from resilient._runtimes import clock
from resilient._sharing import store as store_module
from resilient.testing import MemoryStore, virtual_time


def fleet(store: MemoryStore, size: int, **kw: Any) -> list[CircuitBreaker]:
    """Return what so many processes have of one circuit."""
    kw = {"name": "api", "shared": store, **kw}
    return [CircuitBreaker(**kw) for _ in range(size)]


async def nothing() -> None:
    """A call that passes."""


async def fails() -> None:
    """A call that fails."""
    raise OSError("down")


class Traffic:
    """Calls of a fleet in virtual time, and what became of them."""

    def __init__(
        self,
        breakers: list[CircuitBreaker],
        broken: Callable[[float, int], bool],
        rate: float,
    ) -> None:
        self.breakers, self.broken, self.rate = breakers, broken, rate
        self.refused = [0] * len(breakers)
        self.failed = [0] * len(breakers)
        self.passed = [0] * len(breakers)
        # Moments in which the circuits of members changed, and what they were.
        self.changes: list[tuple[float, int, str, str]] = []
        for place, breaker in enumerate(breakers):
            breaker.subscribe(lambda event, place=place: self.note(event, place))
        self.now = 0.0
        self.probes = 0

    def note(self, event: Any, place: int) -> None:
        if isinstance(event, CircuitChanged):
            self.changes.append((self.now, place, event.new, event.reason))

    def run(self, time: Any, seconds: float, seed: int = 1) -> None:
        chance = random.Random(seed)
        ends = self.now + seconds
        while True:
            pause = chance.expovariate(self.rate * len(self.breakers))
            if self.now + pause > ends:
                time.advance(ends - self.now)
                self.now = ends
                return
            time.advance(pause)
            self.now += pause
            self.call(chance.randrange(len(self.breakers)))

    def call(self, place: int) -> None:
        breaker = self.breakers[place]
        broken = self.broken(self.now, place)

        def work() -> None:
            self.probes += breaker.state is CircuitState.HALF_OPEN
            if broken:
                raise OSError("down")

        try:
            breaker.call(work)
            self.passed[place] += 1
        except OSError:
            self.failed[place] += 1
        except CircuitOpenError:
            self.refused[place] += 1

    def opened_by_fleet(self) -> list[float]:
        return [at for at, _, _, reason in self.changes if reason == "fleet"]


OUTAGE = (10.0, 40.0)


def down(now: float, place: int) -> bool:
    """Whether the dependency is down, for all."""
    return OUTAGE[0] <= now < OUTAGE[1]


def test_a_fleet_that_calls_seldom_opens_together() -> None:
    """Fifty members, each with four calls a window, of which none would open alone."""
    with virtual_time(seed=1) as time:
        traffic = Traffic(fleet(MemoryStore(), 50), down, 0.4)
        traffic.run(time, 25.0)
        opened = traffic.opened_by_fleet()
        assert OUTAGE[0] + 2 < opened[0] < OUTAGE[0] + 10
        assert {"fleet"} == {reason for *_, reason in traffic.changes[:20]}
        wasted = sum(traffic.failed)
        traffic.run(time, 55.0, seed=2)
        assert sum(traffic.failed) - wasted < 60
        assert "closed" in [new for _, _, new, _ in traffic.changes[-50:]]
        # All are closed again, by one member's probes.
        assert {CircuitState.CLOSED} == {one.state for one in traffic.breakers}


def test_a_busy_fleet_probes_by_one_member() -> None:
    """Three calls a round, not sixty; and it closes when they pass."""
    with virtual_time(seed=1) as time:
        breakers = fleet(MemoryStore(), 20, open_for=constant(5.0))
        traffic = Traffic(breakers, down, 20.0)
        traffic.run(time, 18.5)
        assert all(one._shared.delegate.open for one in breakers)  # type: ignore[union-attr]
        # Those that opened alone before the fleet have probed for themselves.
        before = traffic.probes
        traffic.run(time, 21.4, seed=2)
        # Rounds of 5 s, each of which ends with the second failed probe.
        assert 6 <= traffic.probes - before <= 3 * 5
        traffic.run(time, 12.0, seed=3)
        assert {CircuitState.CLOSED} == {one.state for one in traffic.breakers}
        assert traffic.probes - before <= 3 * 7


@pytest.mark.parametrize(
    ("size", "broken"), [(2, 1), (3, 1), (20, 1), (20, 9), (20, 10)]
)
def test_a_minority_opens_nobody_else(size: int, broken: int) -> None:
    """Members whose own network is down."""
    with virtual_time(seed=1) as time:
        traffic = Traffic(
            fleet(MemoryStore(), size), lambda now, place: place < broken, 10.0
        )
        traffic.run(time, 40.0)
    assert 0 == sum(traffic.refused[broken:])
    assert all(refused > 0 for refused in traffic.refused[:broken])
    assert [] == traffic.opened_by_fleet()


def test_a_majority_opens_the_fleet() -> None:
    """It is right by definition."""
    with virtual_time(seed=1) as time:
        traffic = Traffic(fleet(MemoryStore(), 20), lambda now, place: place < 11, 10.0)
        traffic.run(time, 20.0)
    assert 20 == len({place for _, place, *_ in traffic.changes})
    assert all(refused > 0 for refused in traffic.refused)


def test_slow_calls_open_a_fleet_too() -> None:
    """By their share among all calls."""
    with virtual_time(seed=1) as time:
        breakers = fleet(
            MemoryStore(),
            3,
            failure_rate=None,
            slow_call_duration=1.0,
            slow_call_rate=0.5,
            minimum_calls=8,
        )
        for _ in range(20):
            for breaker in breakers:
                try:
                    breaker.call(time.advance, 2.0 / 3)
                    breaker.call(time.advance, 1.1)
                except CircuitOpenError as error:
                    assert "calls were slow in the fleet" in str(error)
        assert all(one.state is CircuitState.OPEN for one in breakers)


def open_together(breakers: list[CircuitBreaker], time: Any) -> None:
    """Have all calls fail until the fleet's circuit is open."""
    traffic = Traffic(breakers, lambda now, place: True, 20.0)
    while not all(one._shared.delegate.open for one in breakers):  # type: ignore[union-attr]
        traffic.run(time, 0.5)


def test_the_error_says_what_the_fleet_saw() -> None:
    """Of all members' calls, also to those that came later."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        breakers = fleet(store, 3)
        open_together(breakers, time)
        (late,) = fleet(store, 1)
        late.call(int)
        with pytest.raises(CircuitOpenError, match=r"failed in the fleet\)") as caught:
            late.call(int)
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 6


def test_the_right_goes_on_when_its_holder_is_gone() -> None:
    """After five seconds without a word of it."""
    with virtual_time(seed=1) as time:
        breakers = fleet(MemoryStore(), 3, open_for=constant(1.0))
        open_together(breakers, time)
        time.advance(1.1)
        one, other, _ = breakers

        def refused(breaker: CircuitBreaker) -> bool:
            try:
                breaker.call(int)
            except CircuitOpenError as error:
                assert "half_open_full" == error.reason
                return True
            return False

        # The first call of each asks; the second of the holder probes.
        assert [True, True] == [refused(one), refused(other)]
        time.advance(0.6)
        assert refused(other)
        time.advance(4.6)
        assert refused(other)
        time.advance(0.6)
        assert not refused(other)
        assert 3 == sum(not refused(other) for _ in range(3))
        assert CircuitState.CLOSED is other.state
        time.advance(0.6)
        refused(one)
        assert CircuitState.CLOSED is one.state


def test_two_that_probe_at_once_are_one() -> None:
    """The store gives the right to the first."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        breakers = fleet(store, 4, open_for=constant(1.0))
        open_together(breakers, time)
        time.advance(1.5)
        running: list[int] = []
        most = 0

        def probe(place: int) -> None:
            nonlocal most
            running.append(place)
            most = max(most, len(running))
            for next_ in range(place + 1, 4):
                attempt(next_)
            running.pop()

        def attempt(place: int) -> None:
            for _ in range(2):
                try:
                    breakers[place].call(probe, place)
                except CircuitOpenError:
                    continue

        attempt(0)
        assert most == 1


@pytest.mark.parametrize("votes", ["pass", "fail"])
def test_without_the_store_each_probes_for_itself(votes: str) -> None:
    """When the fleet's open time is over; and tells its result on return."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        breakers = fleet(store, 3, open_for=constant(4.0))
        events: list[Any] = []
        breakers[0].subscribe(events.append)
        open_together(breakers, time)
        store.lose()
        traffic = Traffic(breakers, lambda now, place: votes == "fail", 20.0)
        traffic.run(time, 2.0)
        assert 0 == sum(traffic.passed) + sum(traffic.failed)
        assert "lost" == breakers[0].status()["shared.store"]
        traffic.run(time, 6.0, seed=2)
        assert all(
            sum(pair) > 0 for pair in zip(traffic.passed, traffic.failed, strict=True)
        )
        store.recover()
        traffic.run(time, 6.0, seed=3)
        assert "up" == breakers[0].status()["shared.store"]
        states = {one._shared.delegate.open for one in breakers}  # type: ignore[union-attr]
        assert {votes == "fail"} == states
        kinds = [type(event) for event in events]
        assert 1 == kinds.count(StoreLost) == kinds.count(StoreBack)


def test_a_store_that_forgets_is_reminded() -> None:
    """The circuit stays open, and one member probes as before."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        breakers = fleet(store, 3, open_for=constant(4.0))
        open_together(breakers, time)
        store.forget()
        traffic = Traffic(breakers, lambda now, place: True, 20.0)
        traffic.run(time, 2.0)
        assert 0 == sum(traffic.failed)
        traffic.run(time, 3.0, seed=2)
        assert 0 < sum(traffic.failed) <= 3
        store.jump(-300.0)
        traffic.run(time, 10.0, seed=3)
        store.jump(600.0)
        traffic.run(time, 10.0, seed=4)
        assert sum(traffic.failed) <= 5 * 3 + 3


def test_a_store_that_is_lost_as_it_begins_is_done_without() -> None:
    """Own circuits alone decide."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        store.lose()
        first = fleet(store, 1)
        Traffic(first, down, 10.0).run(time, 2.0)
        breakers = fleet(store, 3)
        traffic = Traffic(breakers, lambda now, place: True, 10.0)
        traffic.run(time, 20.0)
        assert all(refused > 0 for refused in traffic.refused)
        assert [] == traffic.opened_by_fleet()


def test_a_control_is_obeyed_before_the_fleet() -> None:
    """Forced open, disabled, observing; and a reset is this process's."""
    with virtual_time(seed=1) as time:
        breakers = fleet(MemoryStore(), 6)
        breakers[0].force_open()
        breakers[1].disable()
        breakers[2].observe()
        open_together(breakers, time)
        assert [
            CircuitState.FORCED_OPEN,
            CircuitState.DISABLED,
            CircuitState.OBSERVING,
        ] == [one.state for one in breakers[:3]]
        breakers[3].reset()
        breakers[3].call(int)
        time.advance(1)
        breakers[3].call(int)
        assert CircuitState.CLOSED is breakers[3].state


def test_a_ramp_follows_the_probes_of_others() -> None:
    """In each process."""
    with virtual_time(seed=1) as time:
        breakers = fleet(MemoryStore(), 3, open_for=constant(1.0), ramp=(0.1, 0.5))
        open_together(breakers, time)
        traffic = Traffic(breakers, lambda now, place: False, 20.0)
        traffic.run(time, 4.0)
        assert {CircuitState.RAMPING} == {one.state for one in breakers}


def test_the_open_time_may_fail_to_be_told() -> None:
    """Five seconds then, and an event."""

    def broken(openings: int) -> float:
        raise ValueError("no")

    with virtual_time(seed=1) as time:
        breakers = fleet(MemoryStore(), 3, open_for=broken)
        open_together(breakers, time)
        assert 3 < (breakers[0].statistics().retry_after or 0) <= 5


@in_every_colour
async def test_a_fleet_opens_and_closes_in_every_colour(w: World) -> None:
    """Two members, one store."""
    breakers = fleet(MemoryStore(), 2, open_for=constant(1.0), minimum_calls=10)

    async def fails() -> None:
        raise OSError("down")

    async def works() -> None:
        pass

    for _ in range(16):
        for breaker in breakers:
            with pytest.raises((OSError, CircuitOpenError)):
                await w.call(breaker, fails)
        await w.sleep(0.2)
    assert "open" == breakers[0].status()["circuit.fleet"]
    await w.sleep(1.5)
    for _ in range(20):
        for breaker in breakers:
            try:
                await w.call(breaker, works)
            except CircuitOpenError:
                continue
        await w.sleep(0.2)
    assert ["closed"] * 2 == [one.status()["circuit.state"] for one in breakers]
    assert 0 < breakers[0].status()["store.exchanges"]


def test_a_closed_circuit_asks_seldom_and_only_with_calls() -> None:
    """Every two seconds while nothing fails."""
    with virtual_time(seed=1) as time:
        (breaker,) = fleet(MemoryStore(), 1)
        for _ in range(1000):
            breaker.call(int)
            time.advance(0.01)
        assert 5 <= breaker.status()["store.exchanges"] <= 6
        time.advance(100)
        assert breaker.status()["store.exchanges"] <= 6


def test_a_slow_store_costs_no_call() -> None:
    """Reports that take too long are dropped."""
    with virtual_time(seed=1) as time:
        store = MemoryStore()
        store.slow(10.0)
        (breaker,) = fleet(store, 1)
        breaker.call(int)
        assert 0.0 == time.now()
        time.advance(3)
        breaker.call(int)
        time.advance(3)
        breaker.call(int)
        assert "lost" == breaker.status()["shared.store"]
        store.link.close()


def test_a_forked_child_is_another_member() -> None:
    """And reports anew."""
    with virtual_time():
        (breaker,) = fleet(MemoryStore(), 1)
        breaker.call(int)
        shared = breaker._shared
        assert shared is not None
        before = shared.id
        store_module._forked()
        assert before != shared.id
        assert shared.delegate.next_at < 0


def test_a_copy_shares_through_the_same_store() -> None:
    """As it reads."""
    store = MemoryStore()
    (breaker,) = fleet(store, 1, window=calls(50))
    again = breaker.with_(half_open_calls=1)
    assert store is again.shared
    assert "shared=MemoryStore()" in repr(again)
    assert CircuitBreaker().shared is None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: CircuitBreaker(shared=MemoryStore()),
            ValueError,
            "`name` of a shared policy must be 1 to 64 letters",
        ),
        (
            lambda: CircuitBreaker(shared="redis", name="api"),  # type: ignore[arg-type]
            TypeError,
            "`shared` must be a store, got 'redis'",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(
    make: Callable[[], Any], error: type[Exception], text: str
) -> None:
    """With a text."""
    with pytest.raises(error, match=text):
        make()


# Orders for all


@in_every_colour
async def test_a_circuit_is_forced_open_for_the_fleet(w: World) -> None:
    """Here at once, elsewhere with the next report; until it is reset for all."""
    store = MemoryStore()
    one, other = fleet(store, 2)
    changes: list[Any] = []
    other.subscribe(changes.append)
    for breaker in (one, other):
        await w.call(breaker, nothing)
    one.force_open(fleet=True)
    assert CircuitState.FORCED_OPEN is one.state
    await w.sleep(2)
    await w.call(other, nothing)
    (later,) = fleet(store, 1)
    await w.call(later, nothing)
    members = one, other, later
    assert [CircuitState.FORCED_OPEN] * 3 == [member.state for member in members]
    assert "forced_open" == other.status()["circuit.fleet"]
    await w.sleep(60)
    with pytest.raises(CircuitOpenError):
        await w.call(other, nothing)
    # One process may have it otherwise.
    later.reset()
    await w.sleep(2)
    await w.call(later, nothing)
    assert CircuitState.CLOSED is later.state
    one.reset(fleet=True)
    with pytest.raises(CircuitOpenError):
        await w.call(other, nothing)
    assert [CircuitState.CLOSED] * 3 == [member.state for member in members]
    assert "closed" == other.status()["circuit.fleet"]
    changed = [one for one in changes if isinstance(one, CircuitChanged)]
    assert ["force_open", "reset"] == [change.reason for change in changed]


@in_every_colour
async def test_a_reset_closes_what_members_opened_by_themselves(w: World) -> None:
    """And what the fleet opened."""
    one, other = fleet(MemoryStore(), 2, consecutive_failures=3)
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            await w.call(other, fails)
    assert CircuitState.OPEN is other.state
    one.reset(fleet=True)
    await w.sleep(0.6)
    with pytest.raises(CircuitOpenError):
        await w.call(other, nothing)
    assert CircuitState.CLOSED is other.state


@in_every_colour
async def test_an_order_is_told_when_the_store_is_back(w: World) -> None:
    """The last one; and members remember it where the store does not."""
    store = MemoryStore()
    one, other = fleet(store, 2)
    for breaker in (one, other):
        await w.call(breaker, nothing)
    store.lose()
    await w.sleep(3)
    await w.call(one, nothing)
    one.reset(fleet=True)
    one.force_open(fleet=True)
    store.recover()
    store.forget()
    for _ in range(50):
        await w.sleep(0.1)
        for breaker in (one, other):
            try:
                await w.call(breaker, nothing)
            except CircuitOpenError:
                pass
    states = [breaker.state for breaker in (one, other)]
    assert [CircuitState.FORCED_OPEN] * 2 == states


def test_an_order_while_a_report_is_on_its_way_goes_next() -> None:
    """It is not lost, and not taken for answered."""
    with virtual_time() as time:
        store = MemoryStore()
        one, other = fleet(store, 2)
        store.slow(0.02)
        one.call(int)
        one.force_open(fleet=True)
        one.reset(fleet=True)
        one.force_open(fleet=True)
        for _ in range(4):
            time.advance(0.02)
            store.link.poll(clock.now())
        other.call(int)
        time.advance(0.02)
        store.link.poll(clock.now())
        assert CircuitState.FORCED_OPEN is other.state


def test_an_order_is_told_on_leaving() -> None:
    """As by a program that gives it and ends."""
    with virtual_time():
        store = MemoryStore()
        (one,) = fleet(store, 1)
        store.lose()
        one.force_open(fleet=True)
        store.recover()
        store.close()
        (fleets,) = store.link._circuits.values()
        assert FORCED == fleets.open


def test_only_a_shared_circuit_is_controlled_for_all() -> None:
    """Nothing has changed then."""
    breaker = CircuitBreaker()
    text = r"`fleet` must be False without `shared`, got True for CircuitBreaker\("
    with pytest.raises(ValueError, match=text):
        breaker.force_open(fleet=True)
    with pytest.raises(ValueError, match=text):
        breaker.reset(fleet=True)
    assert CircuitState.CLOSED is breaker.state
