"""Blocks: what `guard` and `attempts` do with the code inside them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import warnings
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    Attempts,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Guard,
    Outcome,
    Pipeline,
    Policy,
    ResilientWarning,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    deadline_after,
)
from resilient._runtimes import clock
from resilient.testing import virtual_time


class _Either:
    """A guard or an attempt, entered as its colour wants."""

    def __init__(self, w: World, block: Any) -> None:
        self.w = w
        self.block = block

    async def __aenter__(self) -> Any:
        if self.w.is_sync:
            return self.block.__enter__()
        return await self.block.__aenter__()

    async def __aexit__(self, *exc: Any) -> Any:
        if self.w.is_sync:
            return self.block.__exit__(*exc)
        return await self.block.__aexit__(*exc)


def guard(w: World, policy: Policy[Any], **options: Any) -> _Either:
    """Return a guard of this colour."""
    return _Either(w, policy.guard(**options))


class _Loop:
    """A loop of attempts, sync or async, over what is entered with `async with`."""

    def __init__(self, w: World, policy: Policy[Any]) -> None:
        self.w = w
        self.attempts = policy.attempts()

    def __aiter__(self) -> _Loop:
        return self

    async def __anext__(self) -> _Either:
        if not self.w.is_sync:
            return _Either(self.w, await self.attempts.__anext__())
        try:
            return _Either(self.w, next(self.attempts))
        except StopIteration:
            raise StopAsyncIteration from None


def retry(attempts: int = 3, delay: float = 1.0) -> Retry:
    """Return a Retry on OSError that waits a constant time."""
    return Retry(OSError, attempts=attempts, backoff=constant(delay))


# --- guard ------------------------------------------------------------------------


@in_every_colour
async def test_a_guard_holds_its_permit_for_the_block(w: World) -> None:
    """From entering to leaving, on the way out by an error too."""
    bulkhead = Bulkhead(1)
    async with guard(w, bulkhead):
        assert 1 == bulkhead.in_use
        with pytest.raises(BulkheadFullError):
            async with guard(w, bulkhead):
                raise AssertionError("not reached")
    with pytest.raises(KeyError):
        async with guard(w, bulkhead):
            raise KeyError
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_failed_guard_counts_as_a_failure(w: World) -> None:
    """The policies learn how the block went, and the error goes on."""
    breaker = CircuitBreaker(consecutive_failures=1)
    error = OSError("down")
    with pytest.raises(OSError, match="down") as caught:
        async with guard(w, breaker):
            raise error
    assert error is caught.value
    with pytest.raises(CircuitOpenError):
        async with guard(w, breaker):
            raise AssertionError("not reached")


@in_every_colour
async def test_a_guard_says_what_call_it_is(w: World) -> None:
    """The block sees its call, and only while it runs."""
    policy = Pipeline(Bulkhead(1), name="shop")
    async with guard(w, policy, key="tea") as call:
        assert call is current_call()
        assert ("shop", "tea", 1) == (call.name, call.key, call.attempt)
        assert policy is call.policy
    with pytest.raises(LookupError):
        current_call()
    assert call.ended


@in_every_colour
async def test_classify_sees_the_result_of_a_block(w: World) -> None:
    """What it writes to `call.result` is its result; nothing is asked without."""
    seen: list[object] = []

    def classify(outcome: Outcome) -> Verdict:
        seen.append(outcome.value)
        return Verdict.SUCCESS if outcome.value == 200 else Verdict.FAILURE

    breaker = CircuitBreaker(consecutive_failures=2)
    policy = Pipeline(breaker, classify=classify)
    for status in (200, 503, None, 503, None, 503, 503):
        async with guard(w, policy) as call:
            if status is not None:
                call.result = status
    assert [200, 503, 503, 503, 503] == seen
    with pytest.raises(CircuitOpenError):
        async with guard(w, policy):
            pass


@in_every_colour
async def test_returning_from_a_guard_settles_it(w: World) -> None:
    """`return` inside the block is an ordinary end of it."""
    breaker = CircuitBreaker()
    bulkhead = Bulkhead(1)

    async def body() -> str:
        async with guard(w, Pipeline(breaker, bulkhead)):
            return "early"

    assert "early" == await body()
    assert (1, 0) == (breaker.statistics().calls, bulkhead.in_use)


@in_every_colour
async def test_a_guard_is_for_one_block(w: World) -> None:
    """It keeps the state of one call."""
    one = guard(w, Bulkhead(2))
    async with one:
        with pytest.raises(RuntimeError, match=r"call guard\(\) again"):
            async with one:
                raise AssertionError("not reached")
    with pytest.raises(RuntimeError, match=r"call guard\(\) again"):
        async with one:
            raise AssertionError("not reached")


@in_every_colour
async def test_a_guard_is_not_entered_after_the_deadline(w: World) -> None:
    """There is no time left in which to begin."""
    with deadline_after(1):
        await w.sleep(2)
        with pytest.raises(DeadlineExceededError, match=r"'Bulkhead' did not begin"):
            async with guard(w, Bulkhead(1)):
                raise AssertionError("not reached")


@in_async_colours
async def test_a_timeout_interrupts_a_guarded_block(w: World) -> None:
    """On leaving the block says what happened, with the interruption as cause."""
    with pytest.raises(TimeoutExceededError) as caught:
        async with Timeout(1).guard():
            await w.sleep(10)
    assert 1.0 == w.now()
    assert caught.value.__cause__ is not None


@in_every_colour
async def test_unwinding_goes_through_a_guard_untouched(w: World) -> None:
    """KeyboardInterrupt decides nothing and gives the permit back."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with guard(w, Pipeline(breaker, bulkhead)):
            raise stop
    assert stop is caught.value
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


class Swallows(Policy[Any]):
    """A policy that breaks the rules: it answers without saying so."""

    async def around(self, proceed: Any, call: Any) -> Outcome:
        await proceed(call)
        return Outcome("instead")


class Repeats(Policy[Any]):
    """A policy that breaks the rules: it tries again without saying so."""

    async def around(self, proceed: Any, call: Any) -> Outcome:
        await proceed(call)
        return await proceed(call)


class Refuses(Policy[Any]):
    """A policy that breaks the rules: it answers and never proceeds."""

    async def around(self, proceed: Any, call: Any) -> Outcome:
        return Outcome("instead")


class Translates(Policy[Any]):
    """A policy that unwinds in its own words."""

    async def around(self, proceed: Any, call: Any) -> Outcome:
        try:
            return await proceed(call)
        except KeyboardInterrupt:
            raise SystemExit(3) from None


@in_every_colour
async def test_a_policy_cannot_sneak_past_a_guard(w: World) -> None:
    """One that repeats or replaces without saying so is caught in the act."""
    bulkhead = Bulkhead(1)
    text = r"guard\(\) cannot do with a block"
    with pytest.raises(TypeError, match=text):
        async with guard(w, Pipeline(bulkhead, Refuses())):
            raise AssertionError("not reached")
    with pytest.raises(TypeError, match=text):
        async with guard(w, Pipeline(bulkhead, Repeats())):
            pass
    with pytest.raises(TypeError, match=text):
        async with guard(w, Pipeline(bulkhead, Swallows())):
            raise KeyError
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_policy_may_unwind_otherwise(w: World) -> None:
    """What it raises in the place of an unwinding leaves the block."""
    with pytest.raises(SystemExit):
        async with guard(w, Translates()):
            raise KeyboardInterrupt
    with pytest.raises(SystemExit):
        async for attempt in _Loop(w, Translates()):
            async with attempt:
                raise KeyboardInterrupt


# --- attempts ---------------------------------------------------------------------


@in_every_colour
async def test_a_block_is_run_until_it_succeeds(w: World) -> None:
    """Failed attempts are swallowed, and waited between."""
    numbers: list[int] = []
    async for attempt in _Loop(w, retry()):
        async with attempt as call:
            numbers.append(call.attempt)
            assert call.attempt == attempt.block.number
            assert call is current_call()
            if len(numbers) < 3:
                raise OSError
    assert [1, 2, 3] == numbers
    assert 2.0 == w.now()


@in_every_colour
async def test_the_last_error_leaves_its_block(w: World) -> None:
    """As it was raised, with a note of what was done."""
    errors = [OSError("1"), OSError("2")]
    with pytest.raises(OSError, match="2") as caught:
        async for attempt in _Loop(w, retry(attempts=2)):
            async with attempt:
                raise errors.pop(0)
    assert ["resilient: 2 attempts in 1 s; stopped: attempts"] == (
        caught.value.__notes__
    )


@in_every_colour
async def test_what_is_not_retried_leaves_its_block_at_once(w: World) -> None:
    """An error that is not listed ends the loop; so does success."""
    runs = 0
    with pytest.raises(KeyError):
        async for attempt in _Loop(w, retry()):
            async with attempt:
                runs += 1
                raise KeyError
    async for attempt in _Loop(w, retry()):
        async with attempt:
            runs += 1
    assert 2 == runs
    assert 0.0 == w.now()


@in_every_colour
async def test_return_and_break_inside_an_attempt_lose_nothing(w: World) -> None:
    """Both are successes: the policies learn of them as the block ends."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    policy = Pipeline(retry(), breaker, bulkhead)

    async def body() -> str:
        async for attempt in _Loop(w, policy):
            async with attempt:
                return "early"
        raise AssertionError("not reached")

    assert "early" == await body()
    async for attempt in _Loop(w, policy):
        async with attempt:
            break
    statistics = breaker.statistics()
    assert (2, 0) == (statistics.calls, statistics.failures)
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_result_may_be_refused(w: World) -> None:
    """The result of each attempt is its own; the last one stands."""
    results = iter([503, 503, 200])
    seen: list[object] = []

    def classify(outcome: Outcome) -> bool:
        seen.append(outcome.value)
        return outcome.value != 200

    async for attempt in _Loop(
        w, Pipeline(Retry(backoff=constant(0)), classify=classify)
    ):
        async with attempt as call:
            assert call.result is None
            call.result = next(results)
    assert [503, 503, 200] == seen


@in_every_colour
async def test_the_first_attempt_may_be_rejected(w: World) -> None:
    """Then the loop raises before any block has run."""
    breaker = CircuitBreaker()
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        async for _attempt in _Loop(w, Pipeline(retry(), breaker)):
            raise AssertionError("not reached")
    with deadline_after(0):
        with pytest.raises(DeadlineExceededError):
            async for _attempt in _Loop(w, retry()):
                raise AssertionError("not reached")


@in_every_colour
async def test_a_later_attempt_may_be_rejected(w: World) -> None:
    """The rejection is what the loop ends with; the block's error is its context."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=60)
    runs = 0
    with pytest.raises(CircuitOpenError) as caught:
        async for attempt in _Loop(w, Pipeline(retry(), breaker)):
            async with attempt:
                runs += 1
                raise OSError("down")
    assert 1 == runs
    assert "down" == str(caught.value.__context__)


@in_every_colour
async def test_a_policy_may_end_the_loop_without_a_block(w: World) -> None:
    """One that answers by itself leaves nothing to run."""
    async for _attempt in _Loop(w, Refuses()):
        raise AssertionError("not reached")


@in_every_colour
async def test_leaving_the_loop_after_a_failed_block_warns(w: World) -> None:
    """Its error would be lost without a word; permits go back."""
    bulkhead = Bulkhead(1)

    async def body() -> None:
        async for attempt in _Loop(w, Pipeline(retry(), bulkhead, name="shop")):
            async with attempt:
                raise OSError("lost")
            break

    with pytest.warns(ResilientWarning) as caught:
        await body()
    assert [
        "a loop of attempts of 'shop' was left after a failed block: OSError is lost"
    ] == [str(warning.message) for warning in caught]
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_leaving_the_loop_after_a_refused_result_warns(w: World) -> None:
    """A result that is to be tried again is lost as well."""
    policy = Retry(on=lambda outcome: True, backoff=constant(0), name="shop")

    async def body() -> None:
        async for attempt in _Loop(w, policy):
            async with attempt as call:
                call.result = "not yet"
            return

    with pytest.warns(ResilientWarning, match="failed block: a result is lost"):
        await body()


@in_every_colour
async def test_leaving_the_loop_otherwise_does_not_warn(w: World) -> None:
    """Before an attempt, after a good one, or by its final error."""
    bulkhead = Bulkhead(1)
    policy = Pipeline(retry(attempts=2), bulkhead)
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        async def leave() -> None:
            async for _attempt in _Loop(w, policy):
                assert 1 == bulkhead.in_use
                break

        await leave()
        assert 0 == bulkhead.in_use
        with pytest.raises(OSError, match="always"):
            async for attempt in _Loop(w, policy):
                async with attempt:
                    raise OSError("always")
        policy.attempts()
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_an_attempt_is_for_one_block_in_its_turn(w: World) -> None:
    """Neither used twice, nor left out, nor kept for later."""
    loop = _Loop(w, retry(delay=0))
    first = await loop.__anext__()
    with pytest.raises(RuntimeError, match="the attempt before this one was not used"):
        await loop.__anext__()
    async with first:
        with pytest.raises(RuntimeError, match="in its own turn"):
            async with first:
                raise AssertionError("not reached")
        raise OSError
    second = await loop.__anext__()
    with pytest.raises(RuntimeError, match="in its own turn"):
        async with first:
            raise AssertionError("not reached")
    assert "<Attempt 2>" == repr(second.block)
    async with second:
        pass
    with pytest.raises(StopAsyncIteration):
        await loop.__anext__()


@in_every_colour
async def test_unwinding_goes_through_an_attempt_untouched(w: World) -> None:
    """Nothing is retried, recorded or warned of."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async for attempt in _Loop(w, Pipeline(retry(), breaker, bulkhead)):
            async with attempt:
                raise stop
    assert stop is caught.value
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


@in_async_colours
async def test_a_plain_with_works_in_an_async_loop(w: World) -> None:
    """Where a wait is due, the next turn of the loop does it."""
    numbers: list[int] = []
    async for attempt in retry().attempts():
        with attempt as call:
            numbers.append(call.attempt)
            if len(numbers) < 3:
                raise OSError
    assert [1, 2, 3] == numbers
    assert 2.0 == w.now()


@in_async_colours
async def test_a_wait_begins_with_the_next_turn_of_the_loop(w: World) -> None:
    """What the caller does before it is under no limit of the wait's."""
    numbers: list[int] = []
    async for attempt in retry().attempts():
        with attempt:
            numbers.append(attempt.number)
            if attempt.number == 1:
                raise OSError
        await w.sleep(5)
    assert [1, 2] == numbers
    assert 11.0 == w.now()


@in_every_colour
async def test_a_wait_may_take_no_time(w: World) -> None:
    """In an async loop of plain blocks too."""
    numbers: list[int] = []
    async for attempt in _Loop(w, retry(delay=0)):
        with attempt.block:
            numbers.append(attempt.block.number)
            if attempt.block.number < 3:
                raise OSError
    assert [1, 2, 3] == numbers
    assert 0.0 == w.now()


@in_async_colours
async def test_a_policy_may_wait_before_the_first_attempt(w: World) -> None:
    """For no time, too."""

    class Waits(Policy):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            await call.runtime.sleep(0)
            await w.sleep(0)
            return await proceed(call)  # type: ignore[no-any-return]

    async for attempt in Waits().attempts():
        async with attempt as call:
            assert 1 == call.attempt


@in_async_colours
async def test_a_plain_with_in_an_async_loop_may_end_in_a_rejection(w: World) -> None:
    """It comes with the next turn, after the wait."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=60)
    with pytest.raises(CircuitOpenError):
        async for attempt in Pipeline(retry(), breaker).attempts():
            with attempt:
                raise OSError("down")
    assert 1.0 == w.now()


@in_async_colours
async def test_an_attempt_may_time_out(w: World) -> None:
    """An attempt that is cut short is tried again; the total limit ends it all."""
    policy = Pipeline(Timeout(2.5), Retry(OSError, backoff=constant(0)), Timeout(1))
    started: list[float] = []
    with pytest.raises(TimeoutExceededError) as caught:
        async for attempt in policy.attempts():
            async with attempt:
                started.append(w.now())
                await w.sleep(10)
    assert [0.0, 1.0, 2.0] == started
    assert 2.5 == caught.value.seconds


def cancelled(w: World, body: Any) -> Any:
    """Run `body`, cancel it at 0.5 s and return what it said."""

    async def in_asyncio() -> None:
        task = asyncio.ensure_future(body())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def in_trio() -> None:
        import trio

        with trio.move_on_after(0.5) as scope:
            await body()
        assert scope.cancelled_caught

    return in_asyncio() if w.colour == "asyncio" else in_trio()


@in_async_colours
async def test_cancellation_inside_a_block_goes_through(w: World) -> None:
    """It counts as no failure: permits go back and nothing is recorded."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)

    async def guarded() -> None:
        async with Pipeline(breaker, bulkhead).guard():
            await w.sleep(10)

    async def attempted() -> None:
        async for attempt in Pipeline(retry(), breaker, bulkhead).attempts():
            async with attempt:
                await w.sleep(10)

    await cancelled(w, guarded)
    await cancelled(w, attempted)
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


@in_async_colours
async def test_cancellation_between_attempts_goes_through(w: World) -> None:
    """The wait is left at once, with plain blocks and with async ones."""
    runs: list[str] = []

    async def plain() -> None:
        async for attempt in retry().attempts():
            with attempt:
                runs.append("plain")
                raise OSError

    async def suspending() -> None:
        async for attempt in retry().attempts():
            async with attempt:
                runs.append("suspending")
                raise OSError

    await cancelled(w, plain)
    await cancelled(w, suspending)
    assert ["plain", "suspending"] == runs
    assert 1.0 == w.now()


# --- other tasks and threads ------------------------------------------------------

ELSEWHERE = "left in another task or thread"


def test_a_block_left_in_another_thread_gives_its_permit_back() -> None:
    """It is a RuntimeError there: neither a success nor a failure."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    policy = Pipeline(retry(), breaker, bulkhead)
    block = Pipeline(breaker, bulkhead).guard()
    caught: list[BaseException] = []

    def leave(block: Any) -> None:
        try:
            block.__exit__(None, None, None)
        except RuntimeError as error:
            caught.append(error)

    def in_thread(block: Any) -> None:
        thread = threading.Thread(target=leave, args=(block,))
        thread.start()
        thread.join()

    def enter() -> Attempts:
        block.__enter__()
        in_thread(block)
        loop = policy.attempts()
        attempt = next(loop)
        attempt.__enter__()
        in_thread(attempt)
        return loop

    # NB: a context of its own, for the variable is never put back here.
    loop = contextvars.copy_context().run(enter)
    assert [True, True] == [ELSEWHERE in str(error) for error in caught]
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)
    with pytest.raises(StopIteration):
        next(loop)


@in_async_colours
async def test_a_block_left_in_another_task_gives_its_permit_back(w: World) -> None:
    """A guard that a framework leaves elsewhere must not lose its slot."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    blocks: list[Guard] = []

    async def enter() -> None:
        block = Pipeline(breaker, bulkhead).guard()
        blocks.append(block)
        await block.__aenter__()

    async def leave() -> None:
        await blocks[0].__aexit__(None, None, None)

    if w.colour == "asyncio":
        await asyncio.ensure_future(enter())
        assert 1 == bulkhead.in_use
        results = await asyncio.gather(leave(), return_exceptions=True)
    else:
        results = await w.gather(enter)
        assert [None] == results
        results = await w.gather(leave)
    assert [RuntimeError] == [type(result) for result in results]
    assert ELSEWHERE in str(results[0])
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


@in_async_colours
async def test_attempts_go_on_where_they_began(w: World) -> None:
    """In another task their limits would cancel the wrong one."""
    bulkhead = Bulkhead(1)
    attempts = Pipeline(retry(delay=0), bulkhead, Timeout(1)).attempts()

    async def begin() -> None:
        async with await anext(attempts):
            raise OSError
        assert 1 == bulkhead.in_use
        if w.colour == "asyncio":
            await w.sleep(100)

    async def go_on() -> None:
        await w.sleep(0.5)
        with pytest.raises(RuntimeError, match="continued in another task or thread"):
            await anext(attempts)
        assert 0 == bulkhead.in_use
        with pytest.raises(StopAsyncIteration):
            await anext(attempts)

    if w.colour == "asyncio":
        assert [None, None] == await w.gather(begin, go_on)
    else:
        # NB: trio says itself that a scope was left open.
        _, result = await w.gather(begin, go_on)
        assert result is None


def test_attempts_go_on_in_the_thread_they_began_in() -> None:
    """The next block would be in another."""
    bulkhead = Bulkhead(1)
    attempts = Pipeline(retry(delay=0), bulkhead).attempts()

    def begin() -> None:
        with next(attempts):
            raise OSError

    with virtual_time():
        thread = clock.start_thread(begin, "first")
        thread.join()
        assert 1 == bulkhead.in_use
        with pytest.raises(RuntimeError, match="continued in another task or thread"):
            next(attempts)
    assert 0 == bulkhead.in_use


def test_attempts_need_a_task() -> None:
    """Nothing is begun where nothing can be waited for."""
    with pytest.raises(RuntimeError, match="no task of asyncio or trio"):
        retry().attempts().__anext__().send(None)


@pytest.mark.parametrize("usage", ["guard", "attempts"])
def test_a_sync_block_on_the_thread_of_a_loop_cannot_be_cut_short(
    usage: str,
) -> None:
    """Said at the line of the block, where a timeout is inside."""

    async def main(policy: Policy[Any]) -> None:
        if usage == "guard":
            with policy.guard():
                pass
        else:
            for attempt in policy.attempts():
                with attempt:
                    pass

    with pytest.warns(ResilientWarning, match="use `async with`") as said:
        asyncio.run(main(Pipeline(Timeout(1), Bulkhead(1))))
    assert [__file__] == [warning.filename for warning in said]
    asyncio.run(main(Pipeline(Timeout(None), Bulkhead(1))))


def test_a_sync_block_left_in_another_task_of_its_thread_is_noticed() -> None:
    """The thread is the same; the context is not."""
    bulkhead = Bulkhead(1)
    block = bulkhead.guard()

    async def enter() -> None:
        block.__enter__()

    async def leave() -> None:
        block.__exit__(None, None, None)

    async def main() -> None:
        await asyncio.ensure_future(enter())
        await asyncio.ensure_future(leave())

    with pytest.raises(RuntimeError, match=ELSEWHERE):
        asyncio.run(main())
    assert 0 == bulkhead.in_use


def test_an_async_block_left_outside_every_task_is_noticed() -> None:
    """There is no task that could be the one it was entered in."""
    bulkhead = Bulkhead(1)
    block = bulkhead.guard()

    def finish() -> None:
        with pytest.raises(RuntimeError, match=ELSEWHERE):
            block.__aexit__(None, None, None).send(None)

    async def main() -> None:
        await block.__aenter__()

    context = contextvars.copy_context()
    with asyncio.Runner() as runner:
        runner.run(main(), context=context)
    context.run(finish)
    assert 0 == bulkhead.in_use
