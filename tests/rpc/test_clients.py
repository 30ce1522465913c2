"""RPCs of gRPC clients on their way through a pipeline, called as gRPC calls it."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.colours import World
from tests.garbage import no_garbage
from tests.rpc.fakes import KINDS, METHOD, AioRpc, Client, Code, Details, Rpc
from tests.scripts import printed

import resilient
from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Fallback,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    Timeout,
    Verdict,
    constant,
    current_call,
    deadline_after,
    remaining,
)
from resilient._rpc.passage import Passage
from resilient._rpc.statuses import judge, pushback
from resilient._runtimes.sync import SYNC
from resilient.grpc import (
    CircuitOpenError,
    DeadlineExceededError,
    TimeoutExceededError,
    aclient_interceptors,
    client_interceptors,
    rpc_verdict,
    standard_client_pipeline,
)

PUSHBACK = "grpc-retry-pushback-ms"
AT_ONCE = constant(0.0, jitter="none")


def scenario(*kinds: str) -> Any:
    """A test of kinds of RPC, in threads and in tasks."""

    def decorate(body: Callable[..., Any]) -> Any:
        @pytest.mark.parametrize("kind", kinds or KINDS)
        @pytest.mark.parametrize("colour", ["sync", "asyncio"])
        def test(kind: str, colour: str) -> None:
            world: Any = World(colour)  # type: ignore[arg-type]  # a literal
            world.run(body, kind)

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate


UNARY = ["unary_unary", "unary_stream"]
STREAMED = ["stream_unary", "stream_stream"]


def retry() -> Retry:
    """Three attempts, at once."""
    return Retry(on=rpc_verdict, backoff=AT_ONCE)


def well(attempt: int) -> Rpc:
    """Each attempt answers."""
    return Rpc("a", "b")


def once(code: Any, *trailing: tuple[str, Any]) -> Callable[[int], Rpc]:
    """The first attempt fails."""

    def script(attempt: int) -> Rpc:
        if attempt == 1:
            return Rpc(code=code, trailing=trailing)
        return Rpc("a", "b")

    return script


def expected(kind: str) -> Any:
    """What an RPC that goes well answers."""
    return ["a", "b"] if kind.endswith("_stream") else "a"


@scenario()
async def test_an_rpc_goes_through(w: World, kind: str) -> None:
    """Its answers as they are, its slot free again."""
    bulkhead = Bulkhead(1)
    client = Client(w, kind, Pipeline(bulkhead), well)

    for _ in range(3):
        assert expected(kind) == await client.call()
        assert 0 == bulkhead.in_use


@scenario(*UNARY)
async def test_a_status_is_retried_where_the_method_is_idempotent(
    w: World, kind: str
) -> None:
    """UNAVAILABLE by default; another where it is listed."""
    for options in (
        {"idempotent": True},
        {"idempotent": lambda method: method == METHOD},
        {"idempotent": True, "retry_statuses": [Code.ABORTED, Code.UNAVAILABLE]},
    ):
        client = Client(w, kind, retry(), once(Code.UNAVAILABLE), **options)
        assert expected(kind) == await client.call()
        assert 2 == len(client.details)

    options = {"idempotent": True, "retry_statuses": {Code.ABORTED}}
    client = Client(w, kind, retry(), once(Code.ABORTED), **options)
    assert expected(kind) == await client.call()


@scenario()
async def test_an_rpc_that_may_have_run_is_not_sent_again(w: World, kind: str) -> None:
    """GRPC's error comes back as it was, with a note that says why."""
    client = Client(w, kind, retry(), once(Code.UNAVAILABLE))
    error = await client.failure()

    assert isinstance(error, grpc.RpcError)
    assert Code.UNAVAILABLE is error.code()  # type: ignore[attr-defined]  # it has one
    assert 1 == len(client.details)
    if kind in UNARY:
        (note,) = error.__notes__
        assert note.endswith(f"stopped: {METHOD} is not said to be idempotent")


@scenario(*STREAMED)
async def test_a_stream_of_requests_is_sent_once(w: World, kind: str) -> None:
    """What it has sent is gone, whatever the server says."""
    for trailing in ((), ((PUSHBACK, "0"),)):
        script = once(Code.RESOURCE_EXHAUSTED, *trailing)
        client = Client(w, kind, retry(), script, idempotent=True)
        error = await client.failure()
        assert Code.RESOURCE_EXHAUSTED is error.code()
        assert 1 == len(client.details)


@scenario(*UNARY)
async def test_a_server_that_refuses_says_when_to_come_back(
    w: World, kind: str
) -> None:
    """It has not run the RPC, so any method is sent again; not before that time."""
    client = Client(w, kind, retry(), once(Code.RESOURCE_EXHAUSTED, (PUSHBACK, "2500")))
    assert expected(kind) == await client.call()
    assert w.now() >= 2.5


@scenario(*UNARY)
async def test_a_server_may_forbid_another_attempt(w: World, kind: str) -> None:
    """By a negative pushback, or one that is no number."""
    for value in ("-1", "soon", "", "9" * 40, "１", b"100"):
        script = once(Code.UNAVAILABLE, ("other", "1"), (PUSHBACK, value))
        client = Client(w, kind, retry(), script, idempotent=True)
        error = await client.failure()
        (note,) = error.__notes__
        assert note.endswith("stopped: the server says not to send it again")


@pytest.mark.parametrize(
    ("code", "trailing", "expected"),
    [
        (Code.UNAVAILABLE, None, (Verdict.FAILURE, None, None, None)),
        (Code.UNAVAILABLE, "40", (Verdict.PUSHBACK, None, 0.04, None)),
        (
            Code.RESOURCE_EXHAUSTED,
            None,
            (
                Verdict.PUSHBACK,
                Verdict.SUCCESS,
                None,
                "RESOURCE_EXHAUSTED is not retried",
            ),
        ),
        (
            Code.RESOURCE_EXHAUSTED,
            "0",
            (Verdict.PUSHBACK, Verdict.SUCCESS, 0.0, None),
        ),
        (Code.INTERNAL, None, (Verdict.FAILURE, None, None, "INTERNAL is not retried")),
        (
            Code.CANCELLED,
            None,
            (Verdict.IGNORED, None, None, "CANCELLED is not retried"),
        ),
        (Code.ABORTED, None, (Verdict.FAILURE, Verdict.SUCCESS, None, None)),
        (
            Code.NOT_FOUND,
            None,
            (Verdict.SUCCESS, None, None, "NOT_FOUND is not retried"),
        ),
    ],
)
def test_a_status_says_what_it_says(code: Any, trailing: Any, expected: Any) -> None:
    """Of the server's health, and of another attempt."""
    metadata = None if trailing is None else [(PUSHBACK, trailing)]
    listed = frozenset({Code.UNAVAILABLE, Code.ABORTED})
    assert expected == judge(code, metadata, listed, None)
    assert None is pushback(None)
    assert Verdict.SUCCESS is rpc_verdict(Outcome(1))


@scenario()
async def test_the_deadline_travels(w: World, kind: str) -> None:
    """What is left: of the stub's own, of one around it, of the pipeline's."""
    client = Client(w, kind, Pipeline(Timeout(5)), well)
    await client.call()
    await client.call(timeout=2.0)
    with deadline_after(1.0):
        await client.call(timeout=2.0)
        await client.call(timeout=0.5)
    assert [5.0, 2.0, 1.0, 0.5] == client.timeouts

    unlimited = Client(w, kind, Pipeline(Bulkhead(1)), well)
    await unlimited.call()
    await unlimited.call(timeout=float("inf"))
    assert [None, None] == unlimited.timeouts


@scenario(*UNARY)
async def test_each_attempt_has_what_is_left(w: World, kind: str) -> None:
    """Of one answer: of the attempt's limit, too; of several that of the whole."""
    waits = Retry(on=rpc_verdict, backoff=constant(1.0, jitter="none"))
    client = Client(
        w,
        kind,
        Pipeline(Pipeline(Timeout(None), Timeout(9), Timeout(7)), waits, Timeout(3)),
        once(Code.UNAVAILABLE),
        idempotent=True,
    )
    await client.call()
    of_one = kind == "unary_unary"
    assert ([3.0, 3.0] if of_one else [7.0, 6.0]) == client.timeouts

    client = Client(w, kind, Pipeline(Timeout(3, idle=1)), well)
    await client.call()
    assert [3.0 if of_one else None] == client.timeouts


@scenario("unary_unary", "unary_stream", "stream_unary")
async def test_a_deadline_that_was_obeyed_is_the_timeouts(w: World, kind: str) -> None:
    """The error of the pipeline's limit, with its status, whatever ends the RPC."""
    bulkhead = Bulkhead(1)

    def script(attempt: int) -> Rpc:
        if w.is_sync:
            resilient._runtimes.clock.sleep(2.0)
            return Rpc(code=Code.DEADLINE_EXCEEDED)
        return Rpc("a", ended=False, seconds=9.0)

    client = Client(w, kind, Pipeline(bulkhead, Timeout(2)), script)
    if kind == "stream_unary" and not w.is_sync:
        await client.begin()
        assert 1 == bulkhead.in_use
        await asyncio.sleep(2.5)
    else:
        error = await client.failure()
        assert isinstance(error, TimeoutExceededError)
        assert isinstance(error, grpc.RpcError)
        assert Code.DEADLINE_EXCEEDED is error.code()
    assert 0 == bulkhead.in_use


@scenario()
async def test_a_rejection_is_an_error_of_grpc(w: World, kind: str) -> None:
    """With a status, no answer of a server's, and its own text."""
    breaker = CircuitBreaker(name="orders")
    breaker.force_open()
    client = Client(w, kind, Pipeline(breaker), well)
    error = await client.failure()

    assert isinstance(error, CircuitOpenError)
    assert isinstance(error, resilient.CircuitOpenError)
    assert isinstance(error, grpc.aio.AioRpcError)
    assert Code.UNAVAILABLE is error.code()
    assert str(error) == error.details() == error.debug_error_string()
    assert str(error).startswith("circuit 'orders' is ")
    assert None is error.initial_metadata() is error.trailing_metadata()
    assert repr(error).startswith("CircuitOpenError('orders'")
    assert [] == client.details

    error = await client.failure(timeout=0.0)
    assert isinstance(error, DeadlineExceededError)
    assert Code.DEADLINE_EXCEEDED is error.code()


def test_errors_pickle_and_copy() -> None:
    """As ours do."""
    error = CircuitOpenError("orders", 12.3)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert CircuitOpenError is type(twin)
        assert str(error) == str(twin)
        assert 12.3 == twin.retry_after
    limited = resilient.grpc.RateLimitedError("orders", 1.0)
    assert Code.RESOURCE_EXHAUSTED is limited.code()


@scenario()
async def test_an_error_of_an_interceptor_further_in_is_its_own(
    w: World, kind: str
) -> None:
    """A rejection is judged as such; a bug is final, and says nothing of the server."""
    breaker = CircuitBreaker(consecutive_failures=1)

    def script(attempt: int) -> Rpc:
        raise (RejectedError("inner") if attempt == 1 else ValueError("a bug"))

    client = Client(w, kind, Pipeline(retry(), breaker), script, idempotent=True)
    assert isinstance(await client.failure(), RejectedError)
    assert isinstance(await client.failure(), ValueError)
    assert CircuitState.CLOSED is breaker.state
    assert 2 == len(client.details)


@scenario("unary_unary")
async def test_a_failure_is_counted(w: World, kind: str) -> None:
    """By a breaker, from a status that is the server's fault."""
    breaker = CircuitBreaker(consecutive_failures=2)
    codes = [Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNKNOWN]
    client = Client(w, kind, breaker, lambda attempt: Rpc(code=codes[attempt - 1]))
    for _ in codes[:-1]:
        await client.failure()
        assert CircuitState.CLOSED is breaker.state
    await client.failure()
    assert CircuitState.OPEN is breaker.state


@scenario("unary_unary")
async def test_a_policy_may_answer_in_the_place_of_a_server(
    w: World, kind: str
) -> None:
    """Its answer is a call of gRPC's that has ended."""
    client = Client(w, kind, Fallback("c"), once(Code.UNAVAILABLE), idempotent=True)
    assert "c" == await client.call()
    assert "a" == await client.call()


def test_an_answer_of_a_policy_is_a_call() -> None:
    """And a future that has ended."""
    client = Client(World("sync"), "unary_unary", Fallback("c"), once(Code.UNAVAILABLE))
    rpc = World("sync").run(lambda w: client.begin())
    told: list[Any] = []
    rpc.add_done_callback(told.append)

    assert isinstance(rpc, grpc.Call)
    assert isinstance(rpc, grpc.Future)
    assert [rpc] == told
    assert Code.OK is rpc.code()
    assert "" == rpc.details()
    assert rpc.done()
    no = rpc.cancel(), rpc.cancelled(), rpc.running(), rpc.is_active()
    assert not any(no)
    assert not rpc.add_callback(print)
    assert None is rpc.exception() is rpc.traceback() is rpc.time_remaining()
    assert () == rpc.initial_metadata() == rpc.trailing_metadata()


class Answering(Policy[Any]):
    """Answers every call itself, and does not say that it may."""

    async def around(self, proceed: Any, call: Call) -> Outcome:
        return Outcome("mine")


@scenario("unary_stream", "stream_unary", "stream_stream")
async def test_a_stream_has_no_other_answer_than_its_own(w: World, kind: str) -> None:
    """A fallback has no meaning there, nor has a policy that answers unasked."""
    error = await Client(w, kind, Fallback("c"), well).failure()
    assert isinstance(error, TypeError)
    assert "generator" in str(error)

    error = await Client(w, kind, Answering(), well).failure()
    assert isinstance(error, TypeError)
    assert str(error) == (
        "a policy answered '/shop.Orders/Get' with an object of <class 'str'>: an RPC"
        " with a stream has no other answer than its own"
    )


@scenario(*UNARY)
async def test_judging_looks_at_the_answer(w: World, kind: str) -> None:
    """The message, of several the first; one that will not do is cancelled."""
    client = Client(
        w,
        kind,
        Pipeline(retry(), classify=lambda outcome: outcome.value == "busy"),
        lambda attempt: Rpc(
            "busy" if attempt == 1 else "a", "b", ended=kind == "unary_unary"
        ),
        idempotent=True,
    )
    assert expected(kind) == await client.call()
    if kind == "unary_stream":
        first = client.rpcs[0]
        assert Code.CANCELLED is (first if w.is_sync else first.rpc).status


@scenario("unary_unary")
async def test_what_calls_are_known_by(w: World, kind: str) -> None:
    """Their method, and a `PerKey` by its service."""
    seen: list[tuple[str, Any]] = []

    def script(attempt: int) -> Rpc:
        seen.append((current_call().name, current_call().key))
        assert None is remaining()
        return Rpc("a")

    keyed: PerKey[Any] = PerKey(lambda key: Bulkhead(1))
    await Client(w, kind, keyed, script).call()
    assert [(METHOD, "/shop.Orders")] == seen


class Others:
    """The details of an interceptor of another library."""

    def __init__(self) -> None:
        self.method = METHOD
        self.timeout: float | None = None


@scenario("unary_unary")
async def test_details_of_other_interceptors_are_copied(w: World, kind: str) -> None:
    """Whatever else they have."""
    client = Client(w, kind, Timeout(3), well)
    details = Others()
    await client.begin(details=details)
    assert [3.0] == client.timeouts
    assert None is details.timeout


# -- Streams


@scenario("unary_stream", "stream_stream")
async def test_a_slot_is_held_until_the_answers_have_ended(w: World, kind: str) -> None:
    """The first of several is awaited; a caller may cancel the rest."""
    bulkhead = Bulkhead(1)
    client = Client(w, kind, Pipeline(bulkhead), lambda _: Rpc("a", "b", ended=False))

    rpc = await client.begin()
    assert 1 == bulkhead.in_use
    assert "a" == (next(rpc) if w.is_sync else await rpc.read())
    assert 1 == bulkhead.in_use
    assert "b" == (next(rpc) if w.is_sync else await rpc.read())
    if w.is_sync:
        assert None is next(rpc, None)
    else:
        assert grpc.aio.EOF is await rpc.read()
    assert 0 == bulkhead.in_use

    rpc = await client.begin()
    assert "a" == (rpc.next() if w.is_sync else await anext(rpc))
    rpc.cancel()
    assert 0 == bulkhead.in_use


@scenario("unary_stream")
async def test_a_stream_without_answers_ends(w: World, kind: str) -> None:
    """It is a success."""
    bulkhead = Bulkhead(1)
    client = Client(w, kind, Pipeline(bulkhead), lambda _: Rpc())
    assert [] == await client.call()
    assert 0 == bulkhead.in_use


@scenario("unary_stream", "stream_stream")
async def test_a_failure_after_the_first_answer_is_the_callers(
    w: World, kind: str
) -> None:
    """It is not retried, and its slot is free."""
    bulkhead = Bulkhead(1)

    def script(attempt: int) -> Rpc:
        return Rpc("a", code=Code.UNAVAILABLE, ended=False)

    client = Client(w, kind, Pipeline(retry(), bulkhead), script, idempotent=True)
    error = await client.failure()
    assert Code.UNAVAILABLE is error.code()
    assert 1 == len(client.details)
    assert 0 == bulkhead.in_use


@scenario("unary_stream", "stream_stream")
async def test_a_stream_is_bounded_as_a_whole(w: World, kind: str) -> None:
    """By the pipeline's limit, where the server does not obey it."""
    bulkhead = Bulkhead(1)
    client = Client(
        w,
        kind,
        Pipeline(Timeout(5), bulkhead),
        lambda _: Rpc(*"abcdefgh", ended=False, seconds=1.0),
    )
    error = await client.failure()
    assert isinstance(error, TimeoutExceededError)
    assert Code.DEADLINE_EXCEEDED is error.code()
    assert 0 == bulkhead.in_use
    rpc = client.rpcs[0]
    assert Code.CANCELLED is (rpc if w.is_sync else rpc.rpc).status


def test_the_first_answer_of_a_stream_is_bounded_on_asyncio() -> None:
    """Whichever waits for it; the RPC is cancelled."""

    async def body(w: World, kind: str) -> None:
        client = Client(
            w, kind, Timeout(2), lambda _: Rpc("a", ended=False, seconds=9.0)
        )
        error = await client.failure()
        assert isinstance(error, TimeoutExceededError)
        assert 2.0 == w.now()
        assert client.rpcs[0].cancelled()

    for kind in ("unary_stream", "stream_stream"):
        World("asyncio").run(body, kind)


@scenario("unary_stream")
async def test_an_interrupt_gives_everything_back(w: World, kind: str) -> None:
    """Ctrl-C, wherever gRPC is interrupted by it."""
    bulkhead = Bulkhead(1)

    def script(attempt: int) -> Rpc:
        if attempt == 1:
            raise KeyboardInterrupt
        return Rpc(KeyboardInterrupt(), ended=False)

    client = Client(w, kind, Pipeline(bulkhead), script)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            await client.call()
        assert 0 == bulkhead.in_use


@scenario("unary_unary", "stream_unary")
async def test_an_interrupt_of_one_answer_gives_everything_back(
    w: World, kind: str
) -> None:
    """The same where one answer is awaited."""
    bulkhead = Bulkhead(1)

    def script(attempt: int) -> Rpc:
        raise KeyboardInterrupt

    client = Client(w, kind, Pipeline(bulkhead), script)
    if not w.is_sync and kind == "stream_unary":
        return  # a task of its own: the loop is told
    with pytest.raises(KeyboardInterrupt):
        await client.call()
    assert 0 == bulkhead.in_use


def test_an_interrupt_between_answers_leaves_the_rpc_running() -> None:
    """In threads the caller may go on with it."""
    bulkhead = Bulkhead(1)
    client = Client(
        World("sync"),
        "unary_stream",
        bulkhead,
        lambda _: Rpc("a", KeyboardInterrupt(), "b", ended=False),
    )
    rpc = World("sync").run(lambda w: client.begin())
    assert "a" == next(rpc)
    with pytest.raises(KeyboardInterrupt):
        next(rpc)
    assert 1 == bulkhead.in_use
    assert ["b"] == list(rpc)
    assert 0 == bulkhead.in_use


# -- RPCs whose caller has them before they have ended


def held(
    w: World, kind: str, policy: Policy[Any], *answers: Any, **options: Any
) -> Client:
    """A client whose RPCs end when they are told to."""
    return Client(w, kind, policy, lambda _: Rpc(*answers, ended=False), **options)


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_a_future_holds_its_slot_until_it_has_ended(kind: str) -> None:
    """It is not waited for, and not retried; how it ends is counted."""
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker(consecutive_failures=1)
    w = World("sync")
    client = held(w, kind, Pipeline(retry(), breaker, bulkhead), "a", idempotent=True)

    async def body(w: World) -> None:
        rpc = await client.begin()
        assert 1 == bulkhead.in_use
        rpc.end()
        rpc.end()
        assert 0 == bulkhead.in_use
        assert "a" == rpc.result()

        rpc = await client.begin()
        rpc.cancel()
        assert 0 == bulkhead.in_use
        assert CircuitState.CLOSED is breaker.state

        rpc = await client.begin()
        rpc.end(Code.UNAVAILABLE)
        assert 0 == bulkhead.in_use
        assert CircuitState.OPEN is breaker.state
        assert 3 == len(client.details)

    w.run(body)


def test_a_future_that_is_lost_gives_its_slot_back() -> None:
    """GRPC cancels it, and tells by its callback."""
    bulkhead = Bulkhead(1)
    client = held(World("sync"), "unary_unary", bulkhead)
    rpc = World("sync").run(lambda w: client.begin())
    ((callback),) = rpc.callbacks
    client.rpcs.clear()
    del rpc
    callback()
    assert 0 == bulkhead.in_use


def test_a_stream_that_both_ends_speak_in_ends_before_its_first_answer() -> None:
    """With a status that is counted, in threads."""
    breaker = CircuitBreaker(consecutive_failures=1)
    bulkhead = Bulkhead(1)
    client = held(World("sync"), "stream_stream", Pipeline(breaker, bulkhead))

    async def body(w: World) -> None:
        rpc = await client.begin()
        client.rpcs[0].end()
        assert (0, []) == (bulkhead.in_use, list(rpc))
        rpc = await client.begin()
        client.rpcs[1].end(Code.INTERNAL)
        assert CircuitState.OPEN is breaker.state
        assert 0 == bulkhead.in_use
        assert Code.INTERNAL is rpc.code()

    World("sync").run(body)


class Refusing(Policy[Any]):
    """Makes an error of every answer."""

    async def around(self, proceed: Any, call: Call) -> Outcome:
        await proceed(call)
        return Outcome(error=RejectedError("refusing"))


@scenario("stream_stream")
async def test_policies_may_refuse_the_first_answer(w: World, kind: str) -> None:
    """The RPC is cancelled, and its caller told: with the next answer, in tasks."""
    client = held(w, kind, Refusing(), "a", "b")
    error = await client.failure()
    assert isinstance(error, resilient.grpc.RejectedError)
    rpc = client.rpcs[0]
    assert Code.CANCELLED is (rpc if w.is_sync else rpc.rpc).status


def test_requests_are_written_on_asyncio() -> None:
    """While the policies wait; what its caller has is gRPC's in all else."""
    bulkhead = Bulkhead(1)

    async def body(w: World) -> None:
        client = held(w, "stream_stream", bulkhead, "a")
        rpc = await client.begin()
        told: list[Any] = []
        rpc.add_done_callback(told.append)
        await rpc.write("x")
        await rpc.done_writing()
        await rpc.wait_for_connection()
        assert ["x", None] == rpc.written
        assert 1 == bulkhead.in_use
        assert not rpc.done()
        assert not rpc.cancelled()
        assert 1.0 == rpc.time_remaining()
        assert () == await rpc.initial_metadata() == await rpc.trailing_metadata()
        assert ["a"] == [answer async for answer in rpc]
        assert (Code.OK, "details") == (await rpc.code(), await rpc.details())
        assert 0 == bulkhead.in_use
        assert 1 == len(told)

        client = held(w, "stream_unary", bulkhead, "a")
        rpc = await client.begin()
        assert isinstance(rpc, AioRpc)
        assert 1 == bulkhead.in_use
        rpc.end(Code.UNAVAILABLE)
        await asyncio.sleep(1)
        assert 0 == bulkhead.in_use

    World("asyncio").run(body)


@pytest.mark.parametrize("kind", STREAMED)
def test_an_rpc_that_is_cancelled_before_it_begins_is_over(kind: str) -> None:
    """Its task, too: it waits in a queue, say."""
    limiter = RateLimiter(1, per=60, max_wait=99)

    async def body(w: World) -> None:
        await limiter.acall(asyncio.sleep, 0)
        client = held(w, kind, limiter)
        task = asyncio.create_task(client.begin())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)
        assert not client.interceptor._tasks
        assert [] == client.details

    World("asyncio").run(body)


def test_a_consumer_that_is_cancelled_cancels_the_rpc() -> None:
    """On asyncio."""
    bulkhead = Bulkhead(1)

    async def body(w: World) -> None:
        client = Client(
            w,
            "unary_stream",
            bulkhead,
            lambda _: Rpc("a", "b", ended=False, seconds=1.0),
        )
        task = asyncio.create_task(client.call())
        await asyncio.sleep(1.5)
        assert 1 == bulkhead.in_use
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0 == bulkhead.in_use
        assert client.rpcs[0].cancelled()

    World("asyncio").run(body)


class Broken(Policy[Any]):
    """Has a bug."""

    async def around(self, proceed: Any, call: Call) -> Outcome:
        if call.attempt:
            raise ZeroDivisionError
        return await proceed(call)


@scenario()
async def test_a_bug_in_a_policy_reaches_the_caller(w: World, kind: str) -> None:
    """Also where the policies have a task of their own."""
    error = await Client(w, kind, Broken(), well).failure()
    assert isinstance(error, ZeroDivisionError)


class Absorbing(Policy[Any]):
    """Makes a rejection of an interrupt."""

    async def around(self, proceed: Any, call: Call) -> Outcome:
        try:
            return await proceed(call)
        except KeyboardInterrupt:
            return Outcome(error=RejectedError("absorbing"))


@scenario("unary_unary", "unary_stream")
async def test_policies_may_keep_what_unwinds(w: World, kind: str) -> None:
    """As they may in any call."""

    def script(attempt: int) -> Rpc:
        raise KeyboardInterrupt

    error = await Client(w, kind, Absorbing(), script).failure()
    assert isinstance(error, resilient.grpc.RejectedError)


def test_a_first_answer_may_be_read_after_the_end() -> None:
    """Of an RPC that both ends spoke in, on asyncio."""
    bulkhead = Bulkhead(1)

    async def body(w: World) -> None:
        rpc = await held(w, "stream_stream", bulkhead, "a", "b").begin()
        rpc._rpc.end()
        assert ["a", "b"] == [answer async for answer in rpc]
        assert 0 == bulkhead.in_use

    World("asyncio").run(body)


def test_a_stream_that_is_not_wanted_may_be_gone() -> None:
    """It is not kept for it."""
    rules = client_interceptors(Timeout(5))[0]._rules
    details = Details(METHOD, None, None, None, None)
    passage = Passage(rules, details, "request", SYNC, many=True)
    outcome = passage.first("a", Rpc("a"))
    assert outcome.ongoing is not None
    with pytest.raises(StopIteration):
        outcome.ongoing.close().send(None)


# -- How they are made


def test_arguments_are_checked_when_they_are_made() -> None:
    """As those of the transports."""
    make: Any
    for make in (client_interceptors, aclient_interceptors):
        for policy in (Hedge(1.0), Coalesce()):
            with pytest.raises(TypeError, match="which interceptors cannot: put it a"):
                make(Pipeline(policy, classify=rpc_verdict))
        with pytest.raises(TypeError, match="`pipeline` must be a Pipeline or a pol"):
            make(print)
        with pytest.raises(TypeError, match="`idempotent` must be True, False or a f"):
            make(idempotent=["/a/b"])
        with pytest.raises(TypeError, match="`retry_statuses` must be a collection"):
            make(retry_statuses="UNAVAILABLE")
        with pytest.raises(TypeError, match="`retry_statuses` must be members of grpc"):
            make(retry_statuses=[14])
        with pytest.raises(ValueError, match="`retry_statuses` must not list OK"):
            make(retry_statuses=[Code.OK])
    with pytest.raises(ValueError, match="`seconds` must"):
        standard_client_pipeline(total=0)


def test_what_idempotent_says_must_be_said_clearly() -> None:
    """None is no answer."""
    client = Client(
        World("sync"), "unary_unary", None, well, idempotent=lambda method: None
    )
    with pytest.raises(TypeError, match="returns True or False, got an object of"):
        World("sync").run(lambda w: client.call())


def test_reprs_name_the_pipeline() -> None:
    """And nothing else."""
    (interceptor,) = client_interceptors(Timeout(5))
    assert "client_interceptors(Timeout(5.0))" == repr(interceptor)
    found = aclient_interceptors(Timeout(5))
    assert "<UnaryUnary of Timeout(5.0)>" == repr(found[0])


def test_the_default_retries_and_breaks() -> None:
    """Thirty seconds in all, ten for an attempt."""
    assert "Pipeline(Timeout(30.0), Retry(), CircuitBreaker(), Timeout(10.0)," in repr(
        standard_client_pipeline()
    )
    plain = standard_client_pipeline(total=None, attempt=2, attempts=2, breaker=False)
    assert 3 == len(plain.policies)


@scenario()
async def test_an_rpc_that_failed_leaves_no_circle(w: World, kind: str) -> None:
    """Neither a status nor a rejection, nor one that went well."""

    async def fail() -> None:
        client = Client(w, kind, Pipeline(Timeout(5), retry()), once(Code.NOT_FOUND))
        # NB: a stream of gRPC's in threads is its own error: a circle of its own.
        raises = w.is_sync and client.many
        for timeout in (0.0, *([] if raises else [None]), None):
            if raises and timeout is None:
                client.details.append(None)
            try:
                await client.call(timeout)
            except grpc.RpcError:
                pass
        client.rpcs.clear()

    await fail()
    with no_garbage():
        await fail()


# -- gRPC itself


@pytest.mark.real
@pytest.mark.parametrize("colour", ["sync", "aio"])
def test_a_real_channel(colour: str) -> None:
    """All four kinds, to a real server, in a process of its own.

    gRPC's threads and forks do not mix, and other tests fork.
    """
    assert {
        "answers": ["a", ["a", "a"], "ab", ["a", "b"]],
        "retried": ["UNAVAILABLE", "RESOURCE_EXHAUSTED 1"],
        "stream retried": ["UNAVAILABLE 2", "UNAVAILABLE 2"],
        "not retried": ["UNAVAILABLE", "NOT_FOUND", "UNAVAILABLE"],
        "left": True,
        "late": "DEADLINE_EXCEEDED",
        "held": 1,
        "future free": True,
        "held again": 1,
        "lost free": True,
    } == printed("tests.rpc.visits", colour)
