"""`before_retry`: what is done between two attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.test_generators import plain_generator

from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    CircuitOpenError,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    deadline_after,
    remaining,
)

NOW = constant(0)


class Connection:
    """A connection that is broken until it is made anew."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.healthy = False

    async def ask(self) -> str:
        self.log.append("ask")
        if not self.healthy:
            raise ConnectionResetError("gone")
        return "answer"

    def reconnect(self, error: object) -> None:
        self.log.append(f"reconnect after {type(error).__name__}")
        self.healthy = True


@in_every_colour
async def test_it_runs_before_each_further_attempt(w: World) -> None:
    """Not before the first, and not after the last."""
    connection = Connection()
    retry = Retry(ConnectionError, backoff=NOW, before_retry=connection.reconnect)
    assert "answer" == await w.call(retry, connection.ask)
    assert ["ask", "reconnect after ConnectionResetError", "ask"] == connection.log
    ends: list[object] = []
    retry = Retry(ConnectionError, backoff=NOW, before_retry=ends.append)
    connection.healthy = False
    with pytest.raises(ConnectionResetError) as caught:
        await w.call(retry, connection.ask)
    assert 2 == len(ends)
    assert caught.value not in ends


@in_every_colour
async def test_it_runs_after_the_pause(w: World) -> None:
    """A token that is fetched before a long pause would be old after it."""
    when: list[float] = []
    retry = Retry(
        KeyError,
        backoff=constant(9),
        before_retry=lambda error: when.append(w.now()),
    )

    async def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await w.call(retry, fail)
    assert [9.0, 18.0] == when


@in_every_colour
async def test_it_may_take_the_call(w: World) -> None:
    """With the number of the attempt to come, its deadline and arguments."""
    seen: list[Any] = []

    def hook(error: Exception, call: Call) -> None:
        assert call is current_call()
        seen.append((str(error), call.attempt, call.args, remaining()))

    async def fail(number: int) -> None:
        raise KeyError(number)

    policy = Pipeline(Timeout(60), Retry(KeyError, backoff=NOW, before_retry=hook))
    with pytest.raises(KeyError):
        await w.call(policy, fail, 7)
    assert [("7", 2, (7,), 60.0), ("7", 3, (7,), 60.0)] == seen


def test_a_second_parameter_with_a_default_is_not_given_the_call() -> None:
    """As in a `Fallback`; what takes anything is given both."""
    seen: list[Any] = []
    for hook in (
        lambda error, times=1: seen.append(times),
        lambda *both: seen.append(len(both)),
        lambda error: seen.append("one"),
    ):
        with pytest.raises(KeyError):
            Retry(KeyError, attempts=2, backoff=NOW, before_retry=hook).call({}.pop, 1)
    assert [1, 2, "one"] == seen


@in_async_colours
async def test_it_may_be_async(w: World) -> None:
    """It is awaited, also where a plain function returns what is to be."""
    log: list[float] = []

    async def refresh(error: object) -> None:
        await w.sleep(2)
        log.append(w.now())

    async def fail() -> None:
        raise KeyError

    for hook in (refresh, lambda error: refresh(error)):
        log.clear()
        began = w.now()
        with pytest.raises(KeyError):
            await Retry(KeyError, backoff=NOW, before_retry=hook).acall(fail)
        assert [began + 2, began + 4] == log


@in_every_colour
async def test_what_it_raises_is_the_outcome_of_the_attempt(w: World) -> None:
    """Judged as the function's errors are: retried, or final at once."""
    tries: list[str] = []

    def hook(error: Exception) -> None:
        tries.append("hook")
        raise OSError("no route") if len(tries) < 4 else ValueError("bad token")

    async def fail() -> None:
        tries.append("function")
        raise ConnectionResetError

    retry = Retry(OSError, attempts=5, backoff=NOW, before_retry=hook)
    with pytest.raises(ValueError, match="bad token") as caught:
        await w.call(retry, fail)
    assert ["function", "hook", "hook", "hook"] == tries
    assert "4 attempts" in caught.value.__notes__[0]
    assert "not retryable" in caught.value.__notes__[0]


@in_every_colour
async def test_the_last_attempt_may_end_before_it_begins(w: World) -> None:
    """Then its error is raised, and counts as the reason."""

    def hook(error: Exception) -> None:
        raise OSError("no route")

    async def fail() -> None:
        raise OSError("first")

    retry = Retry(OSError, attempts=3, backoff=NOW, before_retry=hook)
    with pytest.raises(OSError, match="no route") as caught:
        await w.call(retry, fail)
    assert ["resilient: 3 attempts in 0 s; stopped: attempts"] == caught.value.__notes__
    assert "no route" == str(caught.value.__context__)
    assert caught.value.__context__ is not None
    assert "first" == str(caught.value.__context__.__context__)


@pytest.mark.parametrize("how", ["alone", "handling", "from", "the same"])
def test_what_it_raises_has_the_error_as_its_context(how: str) -> None:
    """Wherever the chain of its own errors ends; never in a circle."""

    def hook(error: Exception) -> None:
        if how == "the same":
            raise error
        if how == "alone":
            raise ValueError("hook")
        try:
            raise KeyError("inner")
        except KeyError as inner:
            if how == "from":
                raise ValueError("hook") from inner
            raise ValueError("hook")  # noqa: B904 - that is the point

    error = OSError("gone")

    def fail() -> None:
        raise error

    with pytest.raises((ValueError, OSError)) as caught:
        Retry(OSError, attempts=2, backoff=NOW, before_retry=hook).call(fail)
    found: BaseException | None = caught.value
    chain: list[BaseException] = []
    while found is not None:
        assert found not in chain
        chain.append(found)
        found = found.__context__
    kinds = {"alone": [ValueError], "the same": []}.get(how, [ValueError, KeyError])
    assert [*kinds, OSError] == [type(error) for error in chain]
    assert error is chain[-1]


@pytest.mark.parametrize("how", ["types", "function", "classify", "nested"])
@pytest.mark.parametrize("raised", [KeyError, ValueError])
def test_it_is_judged_as_the_function_is_judged(
    how: str, raised: type[Exception]
) -> None:
    """The Retry's own word, or the pipeline's."""

    def judge(outcome: Outcome) -> bool:
        return isinstance(outcome.error, KeyError)

    def hook(error: Exception) -> None:
        tries.append(raised)
        raise raised

    def fail() -> None:
        raise KeyError

    tries: list[type] = []
    kinds: dict[str, Callable[[], Policy[Any]]] = {
        "types": lambda: Retry(KeyError, backoff=NOW, before_retry=hook),
        "function": lambda: Retry(on=judge, backoff=NOW, before_retry=hook),
        "classify": lambda: Pipeline(
            Retry(backoff=NOW, before_retry=hook), CircuitBreaker(), classify=judge
        ),
        "nested": lambda: Pipeline(
            Retry(backoff=NOW, before_retry=hook),
            Pipeline(CircuitBreaker(), classify=judge),
        ),
    }
    with pytest.raises(raised):
        kinds[how]().call(fail)
    assert (2 if raised is KeyError else 1) == len(tries)


def test_an_attempt_that_never_began_is_no_affair_of_those_further_in() -> None:
    """The dependency was not asked."""
    breaker = CircuitBreaker()

    def hook(error: Exception) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        Pipeline(Retry(KeyError, backoff=NOW, before_retry=hook), breaker).call(
            {}.pop, 1
        )
    assert 1 == breaker.statistics().calls


@in_every_colour
async def test_for_a_refused_result_there_is_no_error(w: World) -> None:
    """As a `Fallback`'s function is given none."""
    seen: list[object] = []

    async def answer() -> int:
        return len(seen)

    retry = Retry(
        on_result=lambda value: value < 2, backoff=NOW, before_retry=seen.append
    )
    assert 2 == await w.call(retry, answer)
    assert [None, None] == seen


@in_async_colours
async def test_it_runs_inside_the_deadline(w: World) -> None:
    """A total timeout cuts it; the error it was given stays in sight."""

    async def hang(error: object) -> None:
        await w.sleep(1000)

    async def fail() -> None:
        raise OSError("gone")

    policy = Pipeline(Timeout(5), Retry(OSError, backoff=NOW, before_retry=hang))
    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(policy, fail)
    assert 5.0 == w.now()
    assert caught.value.__cause__ is not None
    assert "gone" == str(caught.value.__cause__.__context__)


@in_every_colour
async def test_no_attempt_begins_when_it_took_all_the_time(w: World) -> None:
    """Then the last real error is raised, and why."""
    tries: list[int] = []

    async def fail() -> None:
        tries.append(1)
        raise OSError("gone")

    def slow(error: object) -> None:
        import resilient._runtimes.clock as clock

        clock.sleep(10)

    with deadline_after(5), pytest.raises(OSError, match="gone") as caught:
        await w.call(Retry(OSError, backoff=NOW, before_retry=slow), fail)
    assert [1] == tries
    assert ["resilient: 1 attempt in 10 s; stopped: deadline"] == caught.value.__notes__


@in_async_colours
async def test_a_cancellation_in_it_goes_through(w: World) -> None:
    """And every permit further out goes back."""
    bulkhead = Bulkhead(1)

    async def hang(error: object) -> None:
        await w.sleep(1000)

    async def fail() -> None:
        raise OSError

    retry = Retry(OSError, backoff=NOW, before_retry=hang)
    inner = w.decorate(retry, fail)
    with pytest.raises(TimeoutExceededError):
        await w.call(Pipeline(Timeout(5), bulkhead), inner)
    assert 0 == bulkhead.in_use


@in_sync
async def test_ctrl_c_in_it_goes_through(w: World) -> None:
    """It is no outcome."""

    def stop(error: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        Retry(KeyError, backoff=NOW, before_retry=stop).call({}.pop, 1)
    assert isinstance(caught.value.__context__, KeyError)


# -- Usages


@in_every_colour
async def test_a_loop_of_attempts_runs_it(w: World) -> None:
    """Between its blocks, inside the call."""
    log: list[str] = []

    def hook(error: Exception, call: Call) -> None:
        assert call is current_call()
        log.append("hook")

    retry = Retry(KeyError, attempts=2, backoff=NOW, before_retry=hook)
    with pytest.raises(KeyError):
        if w.is_sync:
            for attempt in retry.attempts():
                with attempt:
                    log.append("block")
                    raise KeyError
        else:
            async for attempt in retry.attempts():
                with attempt:
                    log.append("block")
                    raise KeyError
    assert ["block", "hook", "block"] == log


@in_every_colour
async def test_streams_and_context_managers_run_it(w: World) -> None:
    """Before their first item, and before they are entered, anew."""
    from tests.test_lazy_results import managed

    connection = Connection()

    async def items() -> AsyncIterator[str]:
        yield await connection.ask()

    retry = Retry(ConnectionError, backoff=NOW, before_retry=connection.reconnect)
    if w.is_sync:
        assert ["answer"] == list(retry(plain_generator(items))())
    else:
        assert ["answer"] == [item async for item in retry(items)()]
    connection.healthy = False
    async with managed(w, retry, items)() as answer:
        assert "answer" == answer
    assert ["ask", "reconnect after ConnectionResetError", "ask"] * 2 == connection.log


@in_async_colours
async def test_it_may_be_async_in_every_async_usage(w: World) -> None:
    """Loops, whose plain `with` leaves it to the next step, and streams."""
    connection = Connection()

    async def reconnect(error: object) -> None:
        await w.sleep(1)
        connection.reconnect(error)

    async def items() -> AsyncIterator[str]:
        yield await connection.ask()

    retry = Retry(ConnectionError, backoff=NOW, before_retry=reconnect)
    async for attempt in retry.attempts():
        with attempt:
            await connection.ask()
    connection.healthy = False
    assert ["answer"] == [item async for item in retry(items)()]
    hedged = Pipeline(retry, Hedge(60))
    connection.healthy = False
    assert "answer" == await w.call(hedged, connection.ask)


async def arefresh(error: object) -> None:
    """Refresh a token."""
    raise AssertionError("not run")


@pytest.mark.parametrize(
    "make",
    [
        lambda retry: retry,
        lambda retry: Pipeline(Timeout(9), retry),
        lambda retry: PerKey(lambda key: retry, key=lambda *args: 0),
    ],
    ids=["alone", "in a pipeline", "per key"],
)
def test_an_async_one_is_refused_for_what_is_synchronous(
    make: Callable[[Any], Policy[Any]],
) -> None:
    """When it is decorated, as far as that can be known; else in the call."""
    text = "an async `before_retry` cannot run in a synchronous call"
    retry = Retry(KeyError, backoff=NOW, before_retry=arefresh)
    with pytest.raises(TypeError, match=text):
        make(retry).call({}.pop, 1)
    with pytest.raises(TypeError, match=text):
        next(make(retry)(lambda: (yield))())


def test_what_turns_out_to_be_async_is_refused_in_the_call() -> None:
    """A mistake of the author's is nothing to retry."""
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise TypeError("the function's own")

    text = "the `before_retry` of Retry.* returned an awaitable"
    retry = Retry(TypeError, backoff=NOW, before_retry=lambda error: arefresh(error))
    with pytest.raises(TypeError, match=text):
        retry.call(fail)
    with pytest.raises(TypeError, match=text):
        for attempt in Retry(TypeError, before_retry=arefresh).attempts():
            with attempt:
                fail()
    assert [1, 1] == tries


@pytest.mark.parametrize(
    "hook",
    [7, "text", lambda: None, lambda a, b, c: None],
    ids=["number", "text", "of nothing", "of three"],
)
def test_what_takes_other_arguments_is_refused(hook: Any) -> None:
    """On construction."""
    with pytest.raises(TypeError, match="`before_retry` must"):
        Retry(KeyError, before_retry=hook)


def test_it_is_an_argument_as_any_other() -> None:
    """In the repr, and in a copy."""
    retry = Retry(KeyError, before_retry=arefresh)
    assert "before_retry=arefresh" in repr(retry)
    assert arefresh is retry.with_(attempts=9).before_retry
    assert retry.with_(before_retry=None).before_retry is None


def test_an_open_circuit_is_told_to_it_as_any_error() -> None:
    """Where rejections are retried, it may wait for something itself."""
    seen: list[type] = []
    breaker = CircuitBreaker(consecutive_failures=1, open_for=0)
    retry = Retry(
        CircuitOpenError,
        KeyError,
        backoff=NOW,
        before_retry=lambda error: seen.append(type(error)),
    )
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        Pipeline(retry, breaker).call({}.pop, 1)
    assert [CircuitOpenError] * 2 == seen


def test_it_may_call_under_the_same_policy() -> None:
    """Its own calls are calls inside this one."""

    def hook(error: object) -> None:
        assert "nested" == retry.call(lambda: "nested")

    retry = Retry(KeyError, attempts=2, backoff=NOW, before_retry=hook)
    with pytest.raises(KeyError):
        retry.call({}.pop, 1)


def test_a_verdict_may_come_with_a_wait() -> None:
    """PUSHBACK from a predicate that judges what it raised."""

    def hook(error: object) -> None:
        raise KeyError

    def judge(outcome: Outcome) -> Verdict:
        return Verdict.PUSHBACK

    retry = Retry(on=judge, attempts=2, backoff=NOW, before_retry=hook)
    with pytest.raises(KeyError):
        asyncio.run(retry.acall(lambda: asyncio.sleep(0, {}.pop(1))))
