"""Checks of a Balance's endpoints, in three colours."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import defaultdict
from typing import Any

import pytest
from tests.colours import (
    World,
    in_async_colours,
    in_every_colour,
    in_sync,
    since_start,
)
from tests.running import run_until

from resilient import (
    Balance,
    Check,
    Eject,
    Endpoint,
    EndpointChecked,
    EndpointReturned,
    EndpointState,
    Event,
    PanicBegan,
    PanicEnded,
    Pipeline,
    health,
)
from resilient._machines.fleet import Fleet, Listed
from resilient._runtimes import clock
from resilient.discovery import poll
from resilient.policies.balance.checking import AT_ONCE
from resilient.testing import virtual_time

HEALTHY, UNHEALTHY = EndpointState.AVAILABLE, EndpointState.UNHEALTHY
EJECTED, PROBING = EndpointState.EJECTED, EndpointState.PROBING


# -- The rules, by hand-fed numbers


def fleet_of(*addresses: str, check: Check, eject: Eject | None = None) -> Fleet:
    """Return a set of these endpoints that are checked."""
    fleet = Fleet("random", eject, check=check)
    fleet.replace([Listed(each, each) for each in addresses], 0.0)
    return fleet


def note(fleet: Fleet, address: str, *checks: bool, now: float = 0.0) -> None:
    """Have checks of an endpoint say so."""
    for good in checks:
        fleet.note_check(fleet.members[address], good, now)


def states(fleet: Fleet, now: float = 0.0) -> dict[str, EndpointState]:
    """Return where each endpoint stands."""
    return {member.address: state for member, state in fleet.look(now)}


def chosen(fleet: Fleet, now: float = 0.0) -> set[str]:
    """Return who gets calls."""
    numbers = iter([n / 50 for n in range(50)])
    found = set[str]()
    for _ in range(50):
        member = fleet.choose(now, lambda: next(numbers, 0.0))
        assert member is not None
        found.add(member.address)
        fleet.leave(member)
    return found


CHECK = Check(bool)


def test_so_many_checks_in_a_row_decide() -> None:
    """Three that fail, two that are good; what comes between begins anew."""
    fleet = fleet_of("a", "b", "c", check=CHECK)
    note(fleet, "a", False, False, True, False, False)
    assert {HEALTHY} == set(states(fleet).values())
    note(fleet, "a", False)
    assert {"a": UNHEALTHY, "b": HEALTHY, "c": HEALTHY} == states(fleet)
    assert {"b", "c"} == chosen(fleet)
    note(fleet, "a", True, False, True)
    assert UNHEALTHY is states(fleet)["a"]
    note(fleet, "a", True)
    assert {"a", "b", "c"} == chosen(fleet)


def test_checks_that_few_pass_are_ignored() -> None:
    """Fewer than a half of those that do not drain; a half is enough."""
    fleet = fleet_of("a", "b", "c", "d", "e", check=CHECK)
    fleet.drain("e", 0.0, draining=True)
    for address in "ab":
        note(fleet, address, False, False, False)
    assert ({"c", "d"}, False) == (chosen(fleet), fleet.panic)
    note(fleet, "c", False, False, False)
    assert (set("abcd"), True) == (chosen(fleet), fleet.panic)
    assert HEALTHY is states(fleet)["a"]
    note(fleet, "c", True, True)
    assert ({"c", "d"}, False) == (chosen(fleet), fleet.panic)
    kinds = [type(change).__name__ for change in fleet.changes]
    assert ["Checked", "Checked", "Checked", "Panic", "Checked", "Panic"] == kinds


def test_the_only_endpoint_gets_calls_all_the_same() -> None:
    """None of one is healthy: that is a panic."""
    fleet = fleet_of("a", check=CHECK)
    note(fleet, "a", False, False, False)
    assert {"a"} == chosen(fleet)


def test_where_checks_leave_none_all_take_part() -> None:
    """However few must be healthy."""
    fleet = fleet_of("a", "b", check=Check(bool, panic=0.01))
    fleet.replace([Listed("a", "a"), Listed("b", "b")], 0.0)
    note(fleet, "a", False, False, False)
    fleet.members["b"].resting_until = 9.0
    fleet.replace([Listed("a", "a"), Listed("b", "b")], 0.0)
    assert {"a", "b"} == chosen(fleet)


def test_a_good_check_has_an_ejected_endpoint_probed_at_once() -> None:
    """It is not back for that; and one that is unhealthy is not even probed."""
    fleet = fleet_of("a", "b", "c", check=CHECK, eject=Eject(1))
    member = fleet.members["a"]
    fleet.fail(member, 0, 0.0, 0.1)
    note(fleet, "a", False, False, False, now=1.0)
    assert EJECTED is states(fleet, 1.0)["a"]
    assert {"b", "c"} == chosen(fleet, 100.0)
    note(fleet, "a", True, now=100.0)
    assert {"b", "c"} == chosen(fleet, 100.0)
    note(fleet, "a", True, now=101.0)
    probe = fleet.choose(101.0, lambda: 0.0)
    assert (member, PROBING) == (probe, states(fleet, 101.0)["a"])
    # While it is being probed a check decides nothing.
    note(fleet, "a", True, now=102.0)
    assert PROBING is states(fleet, 102.0)["a"]
    fleet.succeed(member, member.era, 103.0, 0.1)
    assert HEALTHY is states(fleet, 103.0)["a"]


def test_a_good_check_comes_sooner_than_the_time_out() -> None:
    """The next call probes it."""
    fleet = fleet_of("a", "b", "c", check=CHECK, eject=Eject(1))
    fleet.fail(fleet.members["a"], 0, 0.0, 0.1)
    assert {"b", "c"} == chosen(fleet, 1.0)
    note(fleet, "a", True, now=1.0)
    probe = fleet.choose(1.0, lambda: 0.0)
    assert probe is fleet.members["a"]


def test_forgetting_forgets_checks() -> None:
    """And it is as good as new then, not before."""
    fleet = fleet_of("a", "b", "c", check=CHECK)
    note(fleet, "a", False, False, False)
    assert not fleet.is_pristine
    fleet.reset(0.0)
    assert fleet.is_pristine
    assert {"a", "b", "c"} == chosen(fleet)


# -- Beside the calls


class Doctor:
    """Says how endpoints are, and notes when it was asked."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.ill: dict[str, Any] = {}
        self.asked: defaultdict[str, list[float]] = defaultdict(list)

    def check(self, **options: Any) -> Check:
        """Return the check, as a function of this colour."""
        return Check(self.w.native(self._answer), **options)

    async def _answer(self, address: str) -> bool:
        self.asked[address].append(since_start())
        ill = self.ill.get(address)
        if isinstance(ill, Exception):
            raise ill
        if isinstance(ill, (int, float)):
            await self.w.sleep(ill)
        return ill != "ill"


def endpoint_states(balance: Balance[Any]) -> dict[str, EndpointState]:
    """Return where each endpoint stands."""
    return {each.name: each.state for each in balance.endpoints}


@in_every_colour
async def test_an_endpoint_that_fails_its_checks_gets_no_calls(w: World) -> None:
    """Whether it says no, raises, or takes too long; and it comes back."""
    doctor = Doctor(w)
    balance = Balance(*"abcdefgh", check=doctor.check(), name="replicas")
    events: list[Event] = []
    balance.subscribe(events.append)
    await run_until(w, balance, 5)
    doctor.ill = {"a": "ill", "b": OSError("x"), "c": 1.5}
    await run_until(w, balance, 45)
    assert {"a", "b", "c"} == {
        name for name, state in endpoint_states(balance).items() if state is UNHEALTHY
    }
    asked = set[str]()

    async def ask() -> None:
        asked.add(balance.current)

    for _ in range(100):
        await w.call(balance, ask)
    assert set("defgh") == asked
    doctor.ill = {}
    await run_until(w, balance, 80)
    assert {HEALTHY} == set(endpoint_states(balance).values())
    said = [
        (event.endpoint, event.healthy)
        for event in events
        if isinstance(event, EndpointChecked)
    ]
    assert [("a", False), ("b", False), ("c", False)] == sorted(said[:3])
    assert [("a", True), ("b", True), ("c", True)] == sorted(said[3:])


@in_every_colour
async def test_each_is_checked_in_its_own_time(w: World) -> None:
    """Every 10 s ± 20 %, the first time within a second; those that join, too."""
    doctor = Doctor(w)
    balance = Balance(*"abcd", check=doctor.check())
    await run_until(w, balance, 100)
    for times in doctor.asked.values():
        assert times[0] <= 1.0
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert all(7.99 <= gap <= 12.01 for gap in gaps)
        assert len(gaps) == len(set(gaps))
    balance.replace(["a", "e"])
    await run_until(w, balance, 103)
    assert 100.0 <= doctor.asked["e"][0] <= 101.0
    last = doctor.asked["b"][-1]
    await run_until(w, balance, 150)
    assert last == doctor.asked["b"][-1]


@in_every_colour
async def test_while_few_are_healthy_the_checks_are_ignored(w: World) -> None:
    """That begins and ends with an event, and shows in `health`."""
    doctor = Doctor(w)
    doctor.ill = {"a": "ill", "b": "ill"}
    balance = Balance(*"abc", check=doctor.check(every=1), name="replicas")
    events: list[Event] = []
    balance.subscribe(events.append)
    pipeline = Pipeline(balance, name="catalogue")
    await run_until(w, balance, 8)
    assert {HEALTHY} == set(endpoint_states(balance).values())
    (seen,) = health()["catalogue"]["policies"]
    assert (True, 3) == (seen["balance.panic"], seen["endpoints"]["available"])
    assert balance.is_restrictive()
    doctor.ill = {}
    await run_until(w, balance, 16)
    panics = [e for e in events if isinstance(e, (PanicBegan, PanicEnded))]
    assert [
        PanicBegan("replicas", None, 1, 3),
        PanicEnded("replicas", None, 2, 3),
    ] == panics
    (seen,) = health()["catalogue"]["policies"]
    assert seen["balance.panic"] is False
    assert pipeline.name == "catalogue"


@in_every_colour
async def test_a_good_check_has_an_ejected_endpoint_probed(w: World) -> None:
    """Long before its time is over."""
    doctor = Doctor(w)
    balance = Balance(
        *"abc",
        check=doctor.check(every=1),
        eject=Eject(1, eject_for=1000),
        load="round_robin",
    )
    events: list[Event] = []
    balance.subscribe(events.append)

    async def fail() -> None:
        if balance.current == "a":
            raise OSError

    async def succeed() -> None:
        pass

    for _ in range(3):
        try:
            await w.call(balance, fail)
        except OSError:
            pass
    assert EJECTED is endpoint_states(balance)["a"]
    await run_until(w, balance, 3)
    assert EJECTED is endpoint_states(balance)["a"]
    await w.call(balance, succeed)
    assert HEALTHY is endpoint_states(balance)["a"]
    assert isinstance(events[-1], EndpointReturned)


@in_sync
async def test_a_check_in_a_thread_that_hangs_is_late_each_time(w: World) -> None:
    """There is never a second one of the same endpoint; nor does it stop `run`."""
    doctor = Doctor(w)
    doctor.ill = {"a": 100}
    balance = Balance(*"abc", check=doctor.check())
    await run_until(w, balance, 35)
    assert {"a": UNHEALTHY, "b": HEALTHY, "c": HEALTHY} == endpoint_states(balance)
    assert 1 == len(doctor.asked["a"])
    assert 35.0 == w.now()


@in_async_colours
async def test_a_plain_check_does_not_block_the_loop(w: World) -> None:
    """It runs in a thread."""
    threads = set[threading.Thread]()

    def check(address: str) -> bool:
        threads.add(threading.current_thread())
        clock.sleep(0.5)
        return address != "a"

    balance = Balance(*"abc", check=Check(check, every=1))
    await run_until(w, balance, 6)
    assert UNHEALTHY is endpoint_states(balance)["a"]
    assert threading.current_thread() not in threads


@in_async_colours
async def test_only_so_many_checks_run_at_once(w: World) -> None:
    """The others have their turn soon."""
    doctor = Doctor(w)
    names = [f"e{n}" for n in range(AT_ONCE + 36)]
    doctor.ill = dict.fromkeys(names, 0.9)
    running = 0
    most = 0

    async def answer(address: str) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await w.sleep(0.9)
        running -= 1
        doctor.asked[address].append(w.now())
        return True

    check = Check(w.native(answer), every=10)
    await run_until(w, Balance(*names, check=check), 6)
    assert (AT_ONCE, len(names)) == (most, len(doctor.asked))


@in_every_colour
async def test_endpoints_that_are_found_are_checked(w: World) -> None:
    """Both run side by side."""
    doctor = Doctor(w)
    doctor.ill = {"b": "ill"}
    lists = [["a"], ["a", "b", "c"]]

    async def find() -> list[str]:
        return lists.pop(0) if len(lists) > 1 else lists[0]

    balance = Balance(
        poll(w.native(find), every=5), check=doctor.check(every=1), name="both"
    )
    await run_until(w, balance, 15)
    assert {"a": HEALTHY, "b": UNHEALTHY, "c": HEALTHY} == endpoint_states(balance)


@in_sync
async def test_where_no_thread_starts_nothing_is_said_of_an_endpoint(w: World) -> None:
    """It is checked the next time."""

    def start(*args: Any) -> Any:
        raise RuntimeError("can't start new thread")

    doctor = Doctor(w)
    balance = Balance(*"abc", check=doctor.check(every=1, unhealthy=1))
    started, clock.start_thread = clock.start_thread, start
    try:
        await run_until(w, balance, 5)
    finally:
        clock.start_thread = started
    assert {HEALTHY} == set(endpoint_states(balance).values())
    await run_until(w, balance, 8)
    assert set("abc") == set(doctor.asked)

    def fail(*args: Any) -> Any:
        raise RecursionError("too deep")

    clock.start_thread = fail
    try:
        with pytest.raises(RecursionError, match="too deep"):
            await run_until(w, balance, 15)
    finally:
        clock.start_thread = started


async def acheck(address: str) -> bool:
    """Check, where it can be awaited."""
    return True


def test_a_thread_cannot_await_a_check() -> None:
    """It says what to use."""
    balance = Balance("a", check=Check(acheck), name="replicas")
    with pytest.raises(TypeError, match=r"the check of 'replicas' has a coroutine fu"):
        balance.run_sync(threading.Event())


def test_a_check_reads_as_it_was_written() -> None:
    """Defaults are left out."""
    check = Check(bool, every=5, panic=0.3)
    assert "Check(bool, every=5.0, panic=0.3)" == repr(check)
    assert check == pickle.loads(pickle.dumps(check))
    balance = Balance("a", check=check)
    assert "Balance('a', check=Check(bool, every=5.0, panic=0.3))" == repr(balance)
    with virtual_time(seed=1):
        assert balance.with_(load="random").check == check
    assert "balance.panic" not in Balance(Endpoint("a")).status()


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"function": "a"}, TypeError, "`function` must be a function of an endpoint"),
        ({"function": lambda: (yield)}, TypeError, "`function` must be a function of"),
        ({"every": 0}, ValueError, "`every` must be > 0 seconds, got 0"),
        ({"timeout": -1}, ValueError, "`timeout` must be > 0 seconds, got -1"),
        ({"healthy": 0}, ValueError, "`healthy` must be >= 1, got 0"),
        ({"unhealthy": 1.5}, TypeError, "`unhealthy` must be an int, got 1.5"),
        ({"panic": 1.5}, ValueError, "`panic` must be > 0 and <= 1, got 1.5"),
    ],
)
def test_a_check_that_could_not_work_is_refused(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """When it is made."""
    with pytest.raises(kind, match=text):
        Check(**{"function": bool, **arguments})
    with pytest.raises(TypeError, match="`check` must be a Check or None, got <class"):
        Balance("a", check=bool)  # type: ignore[arg-type]  # refused
