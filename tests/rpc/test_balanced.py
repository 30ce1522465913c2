"""Channels to several endpoints: where RPCs go, and when channels are closed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.fakes import METHOD, Code, Rpc
from tests.scripts import printed

from resilient import (
    Balance,
    Endpoint,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    constant,
)
from resilient.discovery import poll
from resilient.grpc import (
    NoEndpointError,
    abalanced_channel,
    aclient_interceptors,
    balanced_channel,
    client_interceptors,
    rpc_verdict,
    standard_client_pipeline,
)
from resilient.testing import virtual_time


class Fake(grpc.Channel):
    """A channel whose RPCs answer with its target, and end as a script says."""

    def __init__(self, target: str, code: Any) -> None:
        self.target, self.code, self.closed = target, code, 0

    def unary_unary(self, method: str, *_: Any) -> Any:
        def call(request: Any, **_: Any) -> Any:
            rpc = Rpc(self.target, code=self.code)
            if self.code is not Code.OK:
                raise rpc
            return self.target, rpc

        def future(request: Any, **_: Any) -> Any:
            return Rpc(self.target, ended=False)

        return SimpleNamespace(with_call=call, future=future)

    unary_stream = stream_unary = stream_stream = unary_unary
    subscribe = unsubscribe = None

    def close(self) -> None:
        self.closed += 1

    __enter__ = __exit__ = None


class Client:
    """A stub with one method, and the channels that were made for it.

    Args:
        pipeline: What RPCs go through, with a `Balance`.
        codes: How those of a target end; OK where it is not listed.
        before: Called as a channel is made.
    """

    def __init__(
        self,
        pipeline: Any,
        codes: dict[str, Any] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.made: list[Any] = []
        self.codes = codes or {}
        self.before = before
        self.channel = balanced_channel(pipeline, factory=self.make, idempotent=True)
        self.method = self.channel.unary_unary(METHOD)

    def make(self, target: str) -> Any:
        self.made.append(Fake(target, self.codes.get(target, Code.OK)))
        made = self.made[-1]
        self.before()
        return made

    def __call__(self) -> Any:
        return self.method("request")


def quick(balance: Balance[Any]) -> Pipeline[Any]:
    """Three attempts at once."""
    retry = Retry(on=rpc_verdict, backoff=constant(0.0, jitter="none"))
    return Pipeline(retry, balance, classify=rpc_verdict)


def test_each_attempt_goes_where_the_balance_says() -> None:
    """To another endpoint after one that failed; each has one channel."""
    with virtual_time():
        client = Client(quick(Balance("a:1", "b:1")), {"a:1": Code.UNAVAILABLE})
        assert {"b:1"} == {client() for _ in range(20)}
    assert {"a:1", "b:1"} == {each.target for each in client.made}
    assert 2 == len(client.made)


def test_a_pair_of_host_and_port_is_a_target() -> None:
    """As discovery finds them; of IPv6 in brackets."""
    for pair, target in ((("10.0.0.1", 80), "10.0.0.1:80"), (("::1", 80), "[::1]:80")):
        assert target == Client(Balance(pair))()


@pytest.mark.parametrize("how", ["drain", "replace"])
def test_the_channel_of_an_endpoint_that_left_is_closed(how: str) -> None:
    """A second later, by the next RPC, and not before its own have ended."""
    with virtual_time() as clock:
        balance = Balance("a:1", "b:1", load="round_robin")
        client = Client(balance)
        assert {"a:1", "b:1"} == {client(), client()}
        a, b = sorted(client.made, key=lambda each: each.target)
        held = [client.method.future("request") for _ in range(2)]
        on_a = next(each for each in held if each.answers == ["a:1"])
        if how == "drain":
            balance.drain("a:1")
        else:
            balance.replace(["b:1"])
        assert "b:1" == client()
        clock.advance(1.0)
        assert "b:1" == client()
        assert 0 == a.closed
        on_a.end()
        assert "b:1" == client()
        assert 0 == a.closed
        clock.advance(1.0)
        assert "b:1" == client()
        assert (1, 0) == (a.closed, b.closed)
        # It comes back, with a channel of its own.
        if how == "drain":
            balance.restore("a:1")
        else:
            balance.replace(["a:1", "b:1"])
        assert {"a:1", "b:1"} == {client() for _ in range(4)}
        assert 3 == len(client.made)


def test_all_are_closed_with_the_channel() -> None:
    """Then it sends nothing."""
    client = Client(Balance("a:1", "b:1", load="round_robin"))
    with client.channel:
        client(), client()
    assert [1, 1] == [each.closed for each in client.made]
    with pytest.raises(ValueError, match="the channel is closed: it sends no RPCs"):
        client()


def test_a_channel_that_is_made_twice_is_closed_once() -> None:
    """Of two threads that come first to an endpoint, one goes on with the other's."""
    answers: list[Any] = []

    def another() -> None:
        if len(client.made) == 1:
            answers.append(client())

    client = Client(Balance("a:1"), before=another)
    assert "a:1" == client()
    assert ["a:1"] == answers
    assert [1, 0] == [each.closed for each in client.made]


def test_a_channel_that_is_made_as_all_are_closed_is_closed() -> None:
    """Its RPC fails."""
    client = Client(Balance("a:1"), before=lambda: client.channel.close())
    with pytest.raises(ValueError, match="the channel is closed: it sends no RPCs"):
        client()
    assert [1] == [each.closed for each in client.made]


def test_without_an_endpoint_an_rpc_is_rejected() -> None:
    """As UNAVAILABLE."""
    balance = Balance("a:1")
    client = Client(quick(balance))
    balance.drain("a:1")
    with pytest.raises(NoEndpointError) as caught:
        client()
    assert Code.UNAVAILABLE is caught.value.code()


def test_a_balance_alone_has_the_standard_pipeline_around_it() -> None:
    """With a breaker for each endpoint, or without."""
    balance = Balance("a:1")
    found = standard_client_pipeline(balance=balance)
    assert [Timeout, Retry, Balance, PerKey, Timeout] == [*map(type, found.policies)]
    plain = standard_client_pipeline(balance=balance, breaker=False)
    assert [Timeout, Retry, Balance, Timeout] == [*map(type, plain.policies)]


def test_a_balanced_channel_has_no_state_of_its_own() -> None:
    """Its endpoints have."""
    client = Client(Balance("a:1"))
    for ask in (client.channel.subscribe, client.channel.unsubscribe):
        with pytest.raises(TypeError, match=r"`Balance\.endpoints` says how they are"):
            ask(print)


def test_arguments_are_checked_when_it_is_made() -> None:
    """What a source finds, when an RPC is sent there."""
    make: Any
    for make in (balanced_channel, abalanced_channel):
        with pytest.raises(TypeError, match="`pipeline` must have a Balance, got Retr"):
            make(Retry(on=rpc_verdict), factory=print)
        with pytest.raises(TypeError, match="`factory` must be a function of a target"):
            make(Balance("a:1"), factory=None)
        for address in ("http://a:1", 7, ("a", "1")):
            with pytest.raises(TypeError, match=r"must be a target, as in \"10\.0"):
                make(Balance(address), factory=print)
        with pytest.raises(ValueError, match=r'by the option "grpc\.ssl_target'):
            make(Balance(Endpoint("a:1", host="b")), factory=print)
        with pytest.raises(TypeError, match="`idempotent` must be True"):
            make(Balance("a:1"), factory=print, idempotent="Get")
    for make in (client_interceptors, aclient_interceptors):
        with pytest.raises(TypeError, match=r"use balanced_channel\(\) or abalanced_c"):
            make(Pipeline(Balance("a:1"), classify=rpc_verdict))
    client = Client(Balance(poll(lambda: [7])))
    with pytest.raises(TypeError, match=r"pair of host and port, got 7"):
        client()
    channel = balanced_channel(Balance("a:1"), factory=lambda target: None)
    with pytest.raises(TypeError, match=r"must make a grpc\.Channel, got an object"):
        channel.unary_unary(METHOD)("request")


@pytest.mark.real
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
def test_three_real_servers_behind_one_stub(colour: str) -> None:
    """All four kinds: spread, retried elsewhere, ejected, drained, gone, closed.

    In a process of its own: gRPC leaves threads behind.
    """
    everywhere, without_b = ["a", "b", "c"], ["a", "c"]
    assert {
        "unary_unary": everywhere,
        "unary_stream": everywhere,
        "stream_unary": everywhere,
        "stream_stream": everywhere,
        "future": everywhere,
        "channels": [1, 1, 1],
        "left": True,
        "unary_unary without b": without_b,
        "unary_stream without b": without_b,
        "ejected": [False, True, False],
        "drained": False,
        "held": True,
        "restored": everywhere,
        "channels restored": [1, 1, 2],
        "all gone": "UNAVAILABLE",
        "none": "UNAVAILABLE",
        "ended": True,
        "after": "the channel is closed: it sends no RPCs any more",
        "state": True,
        "factory": True,
    } == printed("tests.rpc.balanced_visits", colour)
