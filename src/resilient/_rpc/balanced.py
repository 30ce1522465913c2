"""Channels to several endpoints: an RPC goes to the one that a `Balance` has chosen.

Ground rules:

* Each endpoint has one channel, made by the user's factory when the first RPC is sent
  there, so that a channel that is lost or slow concerns that endpoint alone.
* The channel of an endpoint that is drained, or has left, is closed once no RPC is in
  it. No task is there to do so: RPCs to other endpoints look for such channels, once a
  second at most.
* The interceptors in front are those of a plain channel. What they send takes the
  channel of the endpoint that is chosen at that moment, so that each attempt does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
import grpc.aio  # type: ignore[import-untyped]

from resilient._calls.call import running
from resilient._http.routing import balances_of, is_pair
from resilient._machines.fleet import EndpointState
from resilient._rpc.passage import Rules
from resilient._runtimes import clock
from resilient._values.locks import Lock
from resilient.policies.balance.balance import Balance
from resilient.policies.balance.endpoints import Endpoint, as_endpoint
from resilient.policies.balance.sources import is_source

_PAUSE: Final = 1.0
"""Seconds between two looks for channels to be closed, for one takes a moment for
each endpoint."""

_NOWHERE: Final = "ipv4:127.0.0.1:0"
"""The target of a channel that is never used."""


def target_of(endpoint: Endpoint[Any]) -> str:
    """Return what gRPC calls an endpoint.

    Raises:
        TypeError, ValueError: It has no such name.
    """
    address = endpoint.address
    if endpoint.host is not None:
        raise ValueError(
            f"{endpoint!r} has a host=, which is for HTTP: have the factory say it, by"
            ' the option "grpc.ssl_target_name_override"'
        )
    if is_pair(address):
        host, port = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not isinstance(address, str) or address.startswith(("http://", "https://")):
        raise TypeError(
            'an endpoint of a channel must be a target, as in "10.0.0.1:50051", or a'
            f" pair of host and port, got {address!r}"
        )
    return address


class _Opened:
    """The channel of an endpoint.

    Attributes:
        channel: It.
        members: What the `Balance` keeps of that endpoint, where RPCs are counted.
    """

    __slots__ = ("channel", "members")

    def __init__(self, channel: Any, member: Any) -> None:
        self.channel = channel
        self.members: set[Any] = {member}


class Channels:
    """The channels of endpoints, by their targets.

    Args:
        rules: What the interceptors were told.
        factory: ``factory(target)`` makes a channel.
        kind: The class of channels that it has to make.

    Raises:
        TypeError, ValueError: No pipeline chooses, or an endpoint is no target.
    """

    def __init__(self, rules: Rules, factory: Callable[[str], Any], kind: type) -> None:
        self._balances: list[Balance[Any]] = [*balances_of(rules.policy)]
        if not self._balances:
            raise TypeError(
                f"`pipeline` must have a Balance, got {rules.policy!r}: for one server"
                " there are interceptors"
            )
        if not callable(factory):
            raise TypeError(
                "`factory` must be a function of a target that makes a channel, such"
                f" as grpc.insecure_channel, got {factory!r}"
            )
        for balance in self._balances:
            for address in balance.addresses:
                # NB: what a source finds is looked at where it is used.
                if not is_source(address):
                    target_of(as_endpoint(address))
        self._factory = factory
        self._kind = kind
        self._lock = Lock()
        self._opened: dict[str, _Opened] = {}
        self._is_closed = False
        self._next_look = clock.now() + _PAUSE

    def current(self) -> tuple[Any, list[Any]]:
        """Return the channel of the endpoint that was chosen for the present RPC.

        Returns:
            It, None where all were closed; and channels that are to be closed.

        Raises:
            TypeError, ValueError: The endpoint is no target, or the factory has made
                something else than a channel.
        """
        choice = running().extras.choices  # type: ignore[union-attr]  # an RPC is
        assert choice is not None
        member = choice[1]
        target = target_of(member.endpoint)
        channel = self._lock.run(self._enter_locked, target, member)
        if channel is not None or self._is_closed:
            return channel, self._idle()
        made = self._factory(target)
        if not isinstance(made, self._kind):
            raise TypeError(
                f"`factory` must make a {self._kind.__module__}.{self._kind.__name__},"
                f" got an object of {type(made)}"
            )
        channel = self._lock.run(self._add_locked, target, made, member)
        # Another thread may have been faster.
        return channel, self._idle() if channel is made else [made]

    def _enter_locked(self, target: str, member: Any) -> Any:
        opened = self._opened.get(target)
        if opened is None:
            return None
        opened.members.add(member)
        return opened.channel

    def _add_locked(self, target: str, made: Any, member: Any) -> Any:
        channel = self._enter_locked(target, member)
        if channel is None and not self._is_closed:
            self._opened[target] = _Opened(made, member)
            channel = made
        return channel

    def _idle(self) -> list[Any]:
        """Return channels of endpoints that are drained or have left, to be closed."""
        now = clock.now()
        if now < self._next_look:
            return []
        self._next_look = now + _PAUSE
        listed = {
            target_of(as_endpoint(endpoint.address))
            for balance in self._balances
            for endpoint in balance.endpoints
            if endpoint.state is not EndpointState.DRAINING
        }
        return self._lock.run(self._take_idle_locked, listed)

    def _take_idle_locked(self, listed: Collection[str]) -> list[Any]:
        idle: list[Any] = []
        for target, opened in list(self._opened.items()):
            opened.members = {each for each in opened.members if each.in_flight}
            if target not in listed and not opened.members:
                idle.append(self._opened.pop(target).channel)
        return idle

    def take_all(self) -> list[Any]:
        """Return all channels, to be closed; there will be no others."""
        return self._lock.run(self._take_all_locked)

    def _take_all_locked(self) -> list[Any]:
        self._is_closed = True
        opened, self._opened = self._opened, {}
        return [each.channel for each in opened.values()]


def _closed() -> ValueError:
    return ValueError("the channel is closed: it sends no RPCs any more")


def _no_state(self: object, *_: object, **__: object) -> Any:
    raise TypeError(
        "a balanced channel has a connection for each endpoint, and no state of its"
        " own: `Balance.endpoints` says how they are"
    )


# -- In threads


def _sent_to_endpoint(kind: str) -> Any:
    def send(self: ThreadChannel, *arguments: Any) -> Any:
        channel, idle = self.channels.current()
        for each in idle:
            each.close()
        if channel is None:
            raise _closed()
        return getattr(channel, kind)(*arguments)

    return send


class ThreadChannel(grpc.Channel):  # type: ignore[misc]  # grpc is untyped
    """What sends an attempt, behind the interceptor of a `grpc.intercept_channel`.

    NB: that asks for the method at each attempt.
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    unary_unary = _sent_to_endpoint("unary_unary")
    unary_stream = _sent_to_endpoint("unary_stream")
    stream_unary = _sent_to_endpoint("stream_unary")
    stream_stream = _sent_to_endpoint("stream_stream")
    subscribe = unsubscribe = _no_state

    def close(self) -> None:
        for channel in self.channels.take_all():
            channel.close()

    # What is entered is the channel in front of it.
    __enter__: Any = None
    __exit__: Any = None


# -- In tasks


class _Method(bytes):
    """The name of a method, and how a channel makes it.

    NB: interceptors of `grpc.aio` are shown no more of a method than its name, which
    gRPC leaves as it is where it is of bytes.
    """

    made_by: Callable[[Any], Any]


class _Sender:
    """What sends an attempt, behind the interceptors."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def send(self, continuation: object, details: Any, request: Any) -> Any:
        channel, idle = self._channels.current()
        for each in idle:
            await each.close()
        if channel is None:
            raise _closed()
        return details.method.made_by(channel)(
            request,
            timeout=details.timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _UnaryUnary(_Sender, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    intercept_unary_unary: Any = _Sender.send


class _UnaryStream(_Sender, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    intercept_unary_stream: Any = _Sender.send


class _StreamUnary(_Sender, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    intercept_stream_unary: Any = _Sender.send


class _StreamStream(_Sender, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    intercept_stream_stream: Any = _Sender.send


def _named(kind: str) -> Any:
    def name(
        self: TaskChannel,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        *_: object,
        **__: object,
    ) -> Any:
        forms = request_serializer, response_deserializer
        named = _Method(method.encode())
        named.made_by = lambda channel: getattr(channel, kind)(method, *forms)
        return getattr(self.front, kind)(named, *forms)

    return name


class TaskChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpc is untyped
    """A channel of `grpc.aio` to several endpoints.

    Args:
        channels: The channels of the endpoints.
        interceptors: Those of the pipeline.
    """

    def __init__(self, channels: Channels, interceptors: tuple[Any, ...]) -> None:
        self._channels = channels
        senders = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
        self.front: Any = grpc.aio.insecure_channel(
            _NOWHERE,
            interceptors=[*interceptors, *[sender(channels) for sender in senders]],
        )

    unary_unary = _named("unary_unary")
    unary_stream = _named("unary_stream")
    stream_unary = _named("stream_unary")
    stream_stream = _named("stream_stream")
    get_state = wait_for_state_change = channel_ready = _no_state

    async def close(self, grace: float | None = None) -> None:
        channels = [*self._channels.take_all(), self.front]
        await asyncio.gather(*[channel.close(grace) for channel in channels])

    async def __aenter__(self) -> TaskChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
