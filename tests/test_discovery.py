"""Where a Balance finds its endpoints, in three colours; see `test_refresh.py`."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from tests.colours import (
    World,
    in_async_colours,
    in_every_colour,
    in_sync,
    since_start,
)
from tests.running import Stopping, run_until

from resilient import (
    Balance,
    DeadlineExceededError,
    DiscoveryFailed,
    Eject,
    Endpoint,
    EndpointsChanged,
    EndpointState,
    Event,
    NoEndpointError,
    PerKey,
    Pipeline,
    ResilientWarning,
    Retry,
    Timeout,
    WarningRaised,
    constant,
    deadline_after,
    health,
)
from resilient._runtimes import clock
from resilient.discovery import Source, dns, poll, srv
from resilient.testing import virtual_time


class Registry:
    """A source whose answers are scripted: lists, or errors that it raises.

    The last one is given again and again.
    """

    def __init__(self, w: World, *answers: Any, takes: float = 0.0) -> None:
        self.w = w
        self.answers = list(answers)
        self.takes = takes
        self.asked: list[float] = []

    def source(self, **options: Any) -> Source[Any]:
        """Return it as a function of this colour: in a thread, or a task."""
        return poll(self.w.native(self._answer), **options)

    def balance(self, **options: Any) -> Balance[Any]:
        """Return a balance that finds its endpoints there."""
        return Balance(self.source(), name="replicas", **options)

    async def _answer(self) -> Any:
        self.asked.append(since_start())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if self.takes:
            await self.w.sleep(self.takes)
        if isinstance(answer, Exception):
            raise answer
        return answer


def names(balance: Balance[Any]) -> list[str]:
    """Return the names of the endpoints."""
    return [each.name for each in balance.endpoints]


def listening(balance: Balance[Any]) -> list[Event]:
    """Return what is told, to be filled."""
    events: list[Event] = []
    balance.subscribe(events.append)
    return events


async def nothing() -> None:
    """Do nothing."""


# -- The first list


@in_every_colour
async def test_the_first_call_finds_the_endpoints(w: World) -> None:
    """And waits for it, as long as it takes."""
    registry = Registry(w, ["a", "b"], takes=3)
    balance = registry.balance()
    events = listening(balance)
    assert [] == names(balance)
    assert (None, 0) == (
        balance.status()["discovery.age"],
        balance.status()["discovery.refreshes"]["success"],
    )

    async def ask() -> Any:
        return balance.current

    assert await w.call(balance, ask) in ("a", "b")
    assert ["a", "b"] == names(balance)
    assert (3.0, [0.0]) == (w.now(), registry.asked)
    assert [EndpointsChanged("replicas", None, 2, 0, 2)] == events
    await w.sleep(2)
    status = balance.status()
    assert (2.0, {"success": 1, "failure": 0, "empty": 0}) == (
        status["discovery.age"],
        status["discovery.refreshes"],
    )


@in_every_colour
async def test_without_a_list_its_error_is_the_calls(w: World) -> None:
    """As it is; then calls are refused until it is asked again, ever later."""
    lost = OSError("no registry")
    registry = Registry(w, lost, lost, lost, ["a"])
    balance = registry.balance()
    events = listening(balance)
    for wait in (1.0, 2.0, 4.0):
        with pytest.raises(OSError, match="no registry") as raised:
            await w.call(balance, nothing)
        assert raised.value is lost
        with pytest.raises(NoEndpointError) as refused:
            await w.call(balance, nothing)
        assert (wait, "OSError") == (refused.value.retry_after, refused.value.failure)
        await w.sleep(wait)
    await w.call(balance, nothing)
    assert [0.0, 1.0, 3.0, 7.0] == registry.asked
    assert (
        "balance 'replicas' has no endpoint to call: none was found yet (OSError);"
        " retry in 4 s"
    ) in str(refused.value)
    assert 3 == events.count(DiscoveryFailed("replicas", None, "OSError", None))


@in_every_colour
async def test_no_endpoints_at_first_are_no_list(w: World) -> None:
    """It is asked again as after an error."""
    registry = Registry(w, [], [], ["a"])
    balance = registry.balance()
    for wait in (1.0, 2.0):
        with pytest.raises(NoEndpointError) as refused:
            await w.call(balance, nothing)
        assert (wait, "empty answer") == (
            refused.value.retry_after,
            refused.value.failure,
        )
        await w.sleep(wait)
    await w.call(balance, nothing)
    assert {"success": 1, "failure": 0, "empty": 2} == balance.status()[
        "discovery.refreshes"
    ]


@in_every_colour
async def test_a_retry_waits_for_the_first_list(w: World) -> None:
    """For as long as the refusal says."""
    registry = Registry(w, OSError("gone"), ["a"])
    balance = registry.balance()
    retry = Retry(OSError, NoEndpointError, backoff=constant(0), budget=None)
    await w.call(Pipeline(retry, balance), nothing)
    assert [0.0, 1.0] == registry.asked


@in_every_colour
async def test_the_first_list_is_waited_for_within_the_deadline(w: World) -> None:
    """What hangs keeps no call for longer."""
    registry = Registry(w, ["a"], takes=50)
    balance = registry.balance()
    with deadline_after(2):
        with pytest.raises((DeadlineExceededError, TimeoutError)):
            await w.call(balance, nothing)
    assert 2.0 == w.now()
    with pytest.raises(DeadlineExceededError):
        with deadline_after(0):
            await w.call(balance, nothing)


@in_async_colours
async def test_a_hundred_callers_wait_for_one_answer(w: World) -> None:
    """All get it; and where there is none, an error of their own."""
    lost = OSError("no registry")
    registry = Registry(w, lost, ["a"], takes=1)
    balance = registry.balance()

    async def call() -> None:
        await w.call(balance, nothing)

    errors = await w.gather(*[call] * 100)
    assert {"no registry"} == {str(error) for error in errors}
    assert 100 == len({id(error) for error in errors})
    await w.sleep(1)
    assert [None] * 100 == await w.gather(*[call] * 100)
    assert [0.0, 2.0] == registry.asked


@in_async_colours
async def test_a_plain_function_is_called_in_a_thread(w: World) -> None:
    """Of whatever colour the calls are; all of them wait for it."""
    threads: list[threading.Thread] = []

    def find() -> list[str]:
        threads.append(threading.current_thread())
        clock.sleep(2)
        return ["a"]

    balance = Balance(poll(find))

    async def call() -> None:
        await w.call(balance, nothing)

    assert [None] * 5 == await w.gather(*[call] * 5)
    assert (1, 2.0) == (len(threads), w.now())
    assert threads[0] is not threading.current_thread()


@in_every_colour
async def test_where_no_thread_starts_there_is_no_list(
    w: World,
) -> None:
    """Which the call is told."""

    def start(*args: Any) -> Any:
        raise RuntimeError("can't start new thread")

    balance = Balance(poll(lambda: ["a"]))
    started, clock.start_thread = clock.start_thread, start
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await w.call(balance, nothing)
    finally:
        clock.start_thread = started
    await w.sleep(1)
    await w.call(balance, nothing)


@in_every_colour
async def test_a_thread_whose_start_was_interrupted_is_no_failure(w: World) -> None:
    """`Thread.start` may say so by an error of its own; the next call finds it."""
    balance = Balance(poll(lambda: ["a"]))
    broken = Mock(side_effect=RuntimeError("cannot release un-acquired lock"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "start_thread", broken)
        with pytest.raises(RuntimeError, match="un-acquired"):
            await w.call(balance, nothing)
    await w.call(balance, nothing)
    assert 0.0 == w.now()


async def hang(w: World, fails: bool) -> None:
    """Have a resolver hang, that in the end answers or fails."""
    answers = ["late", "b"]

    def find() -> list[str]:
        answer = answers.pop(0)
        if answer == "late":
            clock.sleep(40)
            if fails:
                raise OSError
        return [answer]

    balance = Balance(poll(find, every=100))
    await w.call(balance, nothing)
    assert (30.0, ["b"]) == (w.now(), names(balance))
    await w.sleep(20)
    await w.call(balance, nothing)
    assert ["b"] == names(balance)
    assert {"success": 1, "failure": 1, "empty": 0} == balance.status()[
        "discovery.refreshes"
    ]


@in_every_colour
async def test_a_resolver_that_hangs_is_asked_again(w: World) -> None:
    """After half a minute; what it says later is dropped."""
    await hang(w, fails=False)


@in_every_colour
async def test_a_resolver_that_hangs_and_fails_is_asked_again(w: World) -> None:
    """Its error is dropped, too."""
    await hang(w, fails=True)


@in_sync
async def test_deep_in_the_stack_no_thread_is_started(w: World) -> None:
    """The caller's own error is not one of the source's."""

    def start(*args: Any) -> Any:
        raise RecursionError("too deep")

    balance = Balance(poll(lambda: ["a"]))
    started, clock.start_thread = clock.start_thread, start
    try:
        with pytest.raises(RecursionError, match="too deep"):
            await w.call(balance, nothing)
    finally:
        clock.start_thread = started
    await w.call(balance, nothing)
    assert 0.0 == w.now()


@in_sync
async def test_a_plain_call_runs_no_coroutine_function(w: World) -> None:
    """It says so; with a list it goes on with that."""

    async def find() -> list[str]:
        return ["a"]

    balance = Balance(poll(find))
    with pytest.raises(TypeError, match=r"use `await arefresh\(\)`"):
        balance.refresh()
    with pytest.raises(TypeError, match=r"use `await run\(\)`"):
        balance.run_sync(threading.Event())
    with pytest.raises(TypeError, match="which a plain call cannot wait for"):
        await w.call(balance, nothing)
    coroutine = balance.arefresh()
    with pytest.raises(StopIteration):
        coroutine.send(None)
    await w.sleep(100)
    await w.call(balance, nothing)


# -- Later lists


@in_every_colour
async def test_the_list_is_found_again_when_it_is_old(w: World) -> None:
    """By the call that finds it so; what is known of who stays is kept."""
    registry = Registry(w, ["a", "b"], ["b", "a"], ["b", "c"])
    balance = registry.balance()
    await w.call(balance, nothing)
    events = listening(balance)
    await w.sleep(9)
    await w.call(balance, nothing)
    assert [0.0] == registry.asked
    known = {each.name: each for each in balance.endpoints}
    await w.sleep(1)
    await w.call(balance, nothing)
    assert [0.0, 10.0] == registry.asked
    # In another order it is the same.
    assert [] == events
    await w.sleep(10)
    await w.call(balance, nothing)
    assert ["b", "c"] == names(balance)
    assert [EndpointsChanged("replicas", None, 1, 1, 2)] == events
    assert known["b"].latency == balance.endpoints[0].latency


@in_every_colour
async def test_who_comes_and_goes_is_not_washed_clean(w: World) -> None:
    """Out for less than a minute it is still ejected."""
    registry = Registry(w, ["a", "b", "c"], ["a", "b"], ["a", "b", "c"])
    balance = registry.balance(eject=Eject(1, eject_for=100), load="round_robin")

    async def ask() -> None:
        if balance.current == "c":
            raise OSError

    for _ in range(3):
        try:
            await w.call(balance, ask)
        except OSError:
            pass
    assert EndpointState.EJECTED is balance.endpoints[2].state
    for count in (2, 3):
        await w.sleep(10)
        await w.call(balance, nothing)
        assert count == len(balance.endpoints)
    assert EndpointState.EJECTED is balance.endpoints[2].state


@in_every_colour
async def test_errors_and_one_empty_answer_leave_the_list(w: World) -> None:
    """They are told, with its age; the second empty one counts."""
    registry = Registry(w, ["a"], OSError("gone"), [], ["a"], [], [])
    balance = registry.balance()
    events = listening(balance)
    await w.call(balance, nothing)
    for wait in (10, 1, 10, 10):
        await w.sleep(wait)
        await w.call(balance, nothing)
    assert [0.0, 10.0, 11.0, 21.0, 31.0] == registry.asked
    assert [
        EndpointsChanged("replicas", None, 1, 0, 1),
        DiscoveryFailed("replicas", None, "OSError", 10.0),
        DiscoveryFailed("replicas", None, "empty answer", 11.0),
        DiscoveryFailed("replicas", None, "empty answer", 10.0),
    ] == events
    await w.sleep(10)
    with pytest.raises(NoEndpointError, match="has no endpoint to call: give it"):
        await w.call(balance, nothing)
    assert EndpointsChanged("replicas", None, 0, 1, 0) == events[-2]


@in_every_colour
async def test_a_new_list_is_waited_for_no_longer_than_a_second(w: World) -> None:
    """Then the old one will do."""
    registry = Registry(w, ["a"], ["a"], ["b"])
    balance = registry.balance()
    await w.call(balance, nothing)
    registry.takes = 5
    await w.sleep(10)
    await w.call(balance, nothing)
    assert (11.0, ["a"]) == (w.now(), names(balance))
    await w.call(balance, nothing)
    assert 11.0 == w.now()
    await w.sleep(9)
    # What ran in a thread has brought its answer since; a task was cancelled.
    refreshes = balance.status()["discovery.refreshes"]
    counts = refreshes["success"], refreshes["failure"]
    assert ((2, 0) if w.is_sync else (1, 1)) == counts


@in_async_colours
async def test_one_finds_it_and_the_others_go_on(w: World) -> None:
    """With the old list, in no time."""
    registry = Registry(w, ["a"], ["b"])
    balance = registry.balance()
    await w.call(balance, nothing)
    await w.sleep(10)
    registry.takes = 0.5
    ended: list[float] = []

    async def call() -> None:
        await w.call(balance, nothing)
        ended.append(w.now())

    await w.gather(*[call] * 100)
    assert [10.0] * 99 + [10.5] == ended
    assert (["b"], [0.0, 10.0]) == (names(balance), registry.asked)


@in_async_colours
async def test_where_it_is_cancelled_the_next_one_finds_it(w: World) -> None:
    """Those that wait, too; there is no half list."""
    registry = Registry(w, ["a"], ["b"], takes=2)
    balance = registry.balance()

    async def impatient() -> None:
        await w.call(Pipeline(Timeout(1), balance), nothing)

    async def patient() -> None:
        await w.sleep(0.5)
        await w.call(balance, nothing)

    errors = await w.gather(impatient, patient)
    assert [True, False] == [isinstance(each, TimeoutError) for each in errors]
    assert ([0.0, 1.0], ["b"], 3.0) == (registry.asked, names(balance), w.now())


@in_every_colour
async def test_a_lost_connection_has_it_found_soon(w: World) -> None:
    """Once a second at most; no other error does."""
    registry = Registry(w, ["a", "b"])
    balance = registry.balance(eject=None)

    async def refuse(error: Exception) -> None:
        raise error

    for error, moments in (
        (ConnectionRefusedError(), [0.0, 1.0]),
        (OSError(113, "No route to host"), [0.0, 1.0, 2.0, 3.0]),
        (TimeoutError(110, "timed out"), [0.0, 1.0, 2.0, 3.0]),
        (ValueError("x"), [0.0, 1.0, 2.0, 3.0]),
    ):
        for _ in range(2):
            with pytest.raises(type(error)):
                await w.call(balance, refuse, error)
        await w.sleep(1)
        await w.call(balance, nothing)
        await w.sleep(1)
        assert moments == registry.asked


@in_every_colour
async def test_what_cannot_be_endpoints_is_a_failure(w: World) -> None:
    """With its own text; the list stays."""
    registry = Registry(w, "a:1", [["a"]], ["http://me:secret@a"], ["a"], "b")
    balance = registry.balance()
    for text, wait in (
        ("must return a list of endpoints, got an object of <class 'str'>", 1),
        ("an endpoint must be one address, got a list", 2),
        ("the URL of an endpoint must have no user or password", 4),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            await w.call(balance, nothing)
        await w.sleep(wait)
    await w.call(balance, nothing)
    await w.sleep(10)
    await w.call(balance, nothing)
    assert ["a"] == names(balance)


@in_sync
async def test_ten_thousand_endpoints_are_enough(w: World) -> None:
    """Always the same ones; and a warning."""
    many = [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(10_050)]
    registry = Registry(w, many, list(reversed(many)))
    balance = registry.balance(load="random")
    with pytest.warns(ResilientWarning, match="has 10050 endpoints, of which it uses"):
        await w.call(balance, nothing)
    kept = set(names(balance))
    assert 10_000 == len(kept)
    await w.sleep(10)
    await w.call(balance, nothing)
    assert kept == set(names(balance))


# -- Beside the calls


@in_every_colour
async def test_it_can_be_found_at_any_time(w: World) -> None:
    """What that raises is the caller's; plain functions run in a thread."""
    registry = Registry(w, ["a"], OSError("gone"), ["b"])
    balance = registry.balance()

    async def refresh() -> None:
        balance.refresh() if w.is_sync else await balance.arefresh()

    await refresh()
    with pytest.raises(OSError, match="gone"):
        await refresh()
    assert ["a"] == names(balance)
    await refresh()
    assert ["b"] == names(balance)


@in_async_colours
async def test_a_plain_function_does_not_block_the_loop(w: World) -> None:
    """It is run in a thread, which is left where the task is cancelled."""

    def find() -> list[str]:
        clock.sleep(1)
        return ["a"]

    balance = Balance(poll(find))
    await balance.arefresh()
    assert (["a"], 1.0) == (names(balance), w.now())


@in_every_colour
async def test_it_runs_beside_the_calls(w: World) -> None:
    """Each time it is due, whatever fails, until it is stopped."""
    registry = Registry(w, ["a"], OSError("gone"), ["b"], ["c"])
    balance = registry.balance()
    await run_until(w, balance, 25)
    assert ([0.0, 10.0, 11.0, 21.0], ["c"]) == (registry.asked, names(balance))
    await w.sleep(10)
    # Then calls find it again.
    await w.call(balance, nothing)
    assert 35.0 == registry.asked[-1]


@in_async_colours
async def test_calls_do_not_wait_while_it_runs(w: World) -> None:
    """But for the first list."""
    registry = Registry(w, ["a"], ["b"], takes=2)
    balance = registry.balance()
    ended: list[float] = []

    async def call() -> None:
        for wait in (0.5, 10, 10):
            await w.sleep(wait)
            await w.call(balance, nothing)
            ended.append(w.now())

    async def run() -> None:
        await run_until(w, balance, 30)

    await w.gather(run, call)
    assert [2.0, 12.0, 22.0] == ended
    assert [0.0, 12.0, 24.0] == registry.asked


@in_sync
async def test_in_a_thread_of_its_own_it_stops_though_it_hangs(w: World) -> None:
    """The resolver is left behind."""
    registry = Registry(w, ["a"], takes=100)
    balance = registry.balance()
    balance.run_sync(Stopping(7))
    assert (7.0, [0.0]) == (w.now(), registry.asked)


@pytest.mark.real
def test_a_thread_of_the_users_runs_it_until_an_event_is_set() -> None:
    """In real time."""
    asked = threading.Event()

    def find() -> list[str]:
        asked.set()
        return ["a"]

    balance, stop = Balance(poll(find, every=0.01)), threading.Event()
    thread = threading.Thread(target=balance.run_sync, args=[stop])
    thread.start()
    assert asked.wait(60)
    asked.clear()
    assert asked.wait(60)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_endpoints_that_were_given_are_not_found() -> None:
    """All that is for a source says so; and a source has the only say."""
    balance = Balance("a", name="replicas")
    with pytest.raises(TypeError, match=r"refresh\(\) is for a source of them"):
        balance.refresh()
    with pytest.raises(TypeError, match=r"arefresh\(\) is for a source of them"):
        balance.arefresh().send(None)
    idle = "neither a source of endpoints nor a `check`"
    with pytest.raises(TypeError, match=rf"{idle}: run_sync\(\) would have nothing"):
        balance.run_sync(threading.Event())
    with pytest.raises(TypeError, match=rf"{idle}: run\(\) would have nothing to do"):
        balance.run().send(None)
    found = Balance(poll(lambda: ["a"]), name="replicas")
    with pytest.raises(TypeError, match=r"are found by poll\(<lambda>\), and cannot"):
        found.replace(["b"])
    source: Any = poll(lambda: ["a"])
    with pytest.raises(TypeError, match="endpoints, or one source of them, got both"):
        Balance("a", source)


# -- Sources


def test_a_source_reads_as_it_was_written() -> None:
    """Defaults are left out; and it can be copied, pickled, compared."""
    texts = {
        "dns('catalogue', 8443)": dns("catalogue", 8443),
        "dns('c', 1, every=5.0, allow_link_local=True)": dns(
            "c", 1, every=5, allow_link_local=True
        ),
        "srv('_http._tcp.c')": srv("_http._tcp.c"),
        "srv('_http._tcp.c', every=5.0)": srv("_http._tcp.c", every=5),
        "poll(find_all)": poll(find_all),
    }
    assert {text: text for text in texts} == {
        text: repr(source) for text, source in texts.items()
    }
    for source in texts.values():
        assert source == pickle.loads(pickle.dumps(source))
    balance = Balance(dns("catalogue", 8443), load="requests")
    assert "Balance(dns('catalogue', 8443), load='requests')" == repr(balance)
    assert repr(balance) == repr(pickle.loads(pickle.dumps(balance)))
    assert balance.with_(load="random").addresses == balance.addresses


def find_all() -> list[str]:
    """Find endpoints."""
    return ["a"]


async def agenerator() -> Any:
    """Yield, where nothing can be awaited."""
    yield "a"


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: dns("", 1), ValueError, "`host` must be a host name, got ''"),
        (lambda: dns("a:1", 1), ValueError, "`host` must be a host name, got 'a:1'"),
        (lambda: dns(7, 1), ValueError, "`host` must be a host name, got 7"),  # type: ignore[arg-type]  # refused
        (lambda: dns("a", 0), ValueError, "`port` must be >= 1, got 0"),
        (lambda: dns("a", 70000), ValueError, "`port` must be <= 65535, got 70000"),
        (
            lambda: dns("a", 1, every=0),
            ValueError,
            "`every` must be > 0 seconds, got 0",
        ),
        (lambda: srv("a", every=-1), ValueError, "`every` must be > 0 seconds, got -"),
        (lambda: srv("http://a"), ValueError, "`name` must be a host name"),
        (lambda: poll("a"), TypeError, "must be a function that returns endpoints"),  # type: ignore[call-overload]  # refused
        (lambda: poll(agenerator), TypeError, "must return endpoints, or be a gener"),  # type: ignore[call-overload]  # refused
        (lambda: dns("a", 1, allow_link_local=1), TypeError, "must be True or False"),  # type: ignore[arg-type]  # refused
    ],
)
def test_a_source_that_could_not_work_is_refused(
    make: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    """When it is made."""
    with pytest.raises(kind, match=text):
        make()


def test_srv_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is made, not at the first call."""
    monkeypatch.setattr("resilient.discovery.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install resilient-pipeline\[dns\]"):
        srv("_http._tcp.c")


def resolved(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have the system's resolver answer so."""

    def getaddrinfo(host: str, port: int, **kinds: Any) -> list[Any]:
        assert "catalogue" == host
        return [
            (2, 1, 6, "", (each, port, 0, 0) if ":" in each else (each, port))
            for each in hosts
        ]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)


def test_dns_finds_every_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both families, on the one port."""
    resolved(monkeypatch, "10.0.0.1", "fd00::1", "10.0.0.1")
    balance = Balance(dns("catalogue", 8443))
    balance.refresh()
    assert [("10.0.0.1", 8443), ("fd00::1", 8443)] == [
        each.address for each in balance.endpoints
    ]
    assert ["10.0.0.1:8443", "fd00::1:8443"] == names(balance)


def test_link_local_answers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are meant; where there are others, with a warning."""
    resolved(monkeypatch, "169.254.169.254", "fe80::1%eth0", "10.0.0.1")
    balance = Balance(dns("catalogue", 80))
    with pytest.warns(ResilientWarning, match=r"'169.254.169.254', which are left out"):
        balance.refresh()
    assert ["10.0.0.1:80"] == names(balance)
    allowed = Balance(dns("catalogue", 80, allow_link_local=True))
    allowed.refresh()
    assert 3 == len(allowed.endpoints)
    resolved(monkeypatch, "169.254.169.254")
    with pytest.raises(ValueError, match="has only link-local addresses"):
        balance.refresh()
    assert ["10.0.0.1:80"] == names(balance)


def test_dns_never_empties_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it says so."""
    resolved(monkeypatch, "10.0.0.1")
    balance = Balance(dns("catalogue", 80))
    balance.refresh()
    resolved(monkeypatch)
    for _ in range(3):
        balance.refresh()
    assert ["10.0.0.1:80"] == names(balance)
    assert 3 == balance.status()["discovery.refreshes"]["empty"]


class Row:
    """A row of an SRV record, as dnspython has it."""

    def __init__(self, priority: int, weight: int, port: int, target: str) -> None:
        self.priority, self.weight = priority, weight
        self.port, self.target = port, target


class Answered(list[Row]):
    """An answer of dnspython's."""

    def __init__(self, ttl: float, *rows: Row) -> None:
        super().__init__(rows)
        self.rrset = self
        self.ttl = ttl


def test_srv_has_tiers_weights_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is good for as long as it says, but for a second at least."""
    asked: list[float] = []
    answer = Answered(
        30,
        Row(20, 5, 82, "Standby.example."),
        Row(10, 0, 80, "one.example."),
        Row(10, 60, 81, "two.example."),
    )

    def resolve(name: str, kind: str, lifetime: float) -> Answered:
        asked.append(clock.now())
        assert ("_http._tcp.c", "SRV") == (name, kind)
        return answer

    monkeypatch.setattr("dns.resolver.resolve", resolve)
    with virtual_time(seed=1):
        balance = Balance(srv("_http._tcp.c"))
        balance.call(lambda: None)
        assert [
            (("standby.example", 82), 5.0, 1),
            (("one.example", 80), 0.1, 0),
            (("two.example", 81), 60.0, 0),
        ] == [(each.address, each.weight, each.tier) for each in balance.endpoints]
        clock.sleep(29)
        balance.call(lambda: None)
        answer = Answered(0, Row(0, 1, 80, "."))
        clock.sleep(1)
        balance.call(lambda: None)
        # No such service: the list stays.
        assert 3 == len(balance.endpoints)
        clock.sleep(1)
        balance.call(lambda: None)
    assert [0.0, 30.0, 31.0] == asked
    answer = Answered(30, Row(1, 1, 80, "169.254.1.1."))
    with pytest.raises(ValueError, match="has only link-local addresses"):
        balance.refresh()
    allowed = Balance(srv("_http._tcp.c", allow_link_local=True))
    allowed.refresh()
    assert ["169.254.1.1:80"] == names(allowed)


def test_an_srv_record_is_good_for_an_hour_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its TTL may be 2**32 - 1 seconds, and what it says wrong."""
    asked: list[float] = []

    def resolve(name: str, kind: str, lifetime: float) -> Answered:
        asked.append(clock.now())
        return Answered(2**32 - 1, Row(1, 1, 80, "one.example."))

    monkeypatch.setattr("dns.resolver.resolve", resolve)
    with virtual_time(seed=1):
        balance = Balance(srv("_http._tcp.c"))
        for _ in range(2):
            balance.call(lambda: None)
            clock.sleep(3599)
            balance.call(lambda: None)
            clock.sleep(1)
        balance.call(lambda: None)
    assert [0.0, 3600.0, 7200.0] == asked


# -- As every policy


def test_what_is_known_of_it_can_be_seen() -> None:
    """By `health`, and as metrics; inside a `PerKey` the oldest list counts."""
    with virtual_time(seed=1):
        balance = Balance(poll(lambda: ["a"]), name="found")
        pipeline = Pipeline(balance, name="catalogue")
        pipeline.call(lambda: None)
        each = PerKey(lambda key: Balance(poll(lambda: ["b"])), name="each")
        for key in "xy":
            with each.guard(key=key):
                clock.sleep(1)
        (seen,) = health()["catalogue"]["policies"]
        assert (2.0, 1) == (
            seen["discovery.age"],
            seen["discovery.refreshes"]["success"],
        )


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("HTTPS://Catalogue.Example.:443/V1", "https://catalogue.example:443/V1"),
        ("http://[0:0:0:0:0:0:0:1]:80/x", "http://[::1]:80/x"),
        ("http://[FE80::1%eth0]", "http://[fe80::1%eth0]"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
        ("http://a..ü", "http://a..ü"),
        ("Catalogue.:443", "Catalogue.:443"),
    ],
)
def test_an_endpoint_has_one_form(given: str, form: str) -> None:
    """However its host is written; what is no URL stays as it is."""
    balance: Balance[Any] = Balance(given)
    assert [form] == [each.address for each in balance.endpoints]
    with pytest.warns(ResilientWarning, match="are each to be listed once"):
        assert 1 == len(Balance(given, Endpoint(form)).endpoints)
    balance.drain(given)
    balance.restore(form)


def test_a_warning_that_is_an_error_does_not_stop_it() -> None:
    """Listeners are told, for it would take the place of a call's result."""
    found = ["a", "a"]
    balance = Balance(poll(lambda: found), zone="z", name="replicas")
    events = listening(balance)
    balance.refresh()
    balance.refresh()
    texts = [event.text for event in events if isinstance(event, WarningRaised)]
    assert (2, ["a"]) == (len(texts), names(balance))


@in_every_colour
async def test_blocks_and_streams_find_it_too(w: World) -> None:
    """In every spelling."""
    registry = Registry(w, ["a"])
    balance = registry.balance()
    if w.is_sync:
        with balance.guard():
            assert "a" == balance.current
    else:
        async with balance.guard():
            assert "a" == balance.current
    await w.sleep(10)
    if w.is_sync:
        for attempt in balance.attempts():
            with attempt:
                assert "a" == balance.current
    else:
        async for attempt in balance.attempts():
            with attempt:
                assert "a" == balance.current
    assert [0.0, 10.0] == registry.asked
