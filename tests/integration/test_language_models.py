"""Two SDKs of language models over our transport, with a server that fails.

Durations are a fortieth of what they are in earnest, and so is the limit that the
standard pipeline has for an attempt. With RESILIENT_FULL_LENGTH set all of it takes
as long as it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import httpx2
import pytest
from tests.loopback import Act, Answer, Gate, Head, Server, Step, answer

from resilient import CircuitBreaker, Pipeline, ResilientWarning, Retry, Timeout
from resilient._http.stated import ClientTimeout
from resilient.httpx2 import (
    ResilientTransport,
    TimeoutExceededError,
    http_verdict,
    per_origin,
)
from resilient.testing import instant

pytestmark = pytest.mark.real

SCALE = 1.0 if "RESILIENT_FULL_LENGTH" in os.environ else 1 / 40
LATE, STALL, PIECES = 12.0 * SCALE, 16.0 * SCALE, 8

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
WORDS = [f"word{number} " for number in range(PIECES)]

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "fake",
    "content": [{"type": "text", "text": "well"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "fake",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "well"},
        }
    ],
}

Colour = Literal["sync", "async"]


def standard(total: float = 30.0) -> Pipeline[Any]:
    """Make what `ResilientTransport` has unless it is given another."""

    def for_origin(_: str) -> Pipeline[Any]:
        inside = CircuitBreaker(), ClientTimeout(10.0 * SCALE)
        return Pipeline(Retry(), *inside, classify=http_verdict)

    return Pipeline(ClientTimeout(total, times=3), per_origin(for_origin))


@cache
def context() -> ssl.SSLContext:
    """Return what clients would take as long to make as all the rest of a test."""
    return ssl.create_default_context()


class OpenAI:
    """What is openai's own."""

    name = "OpenAI"
    path = "/chat/completions"
    answer = json.dumps(COMPLETION).encode()

    @staticmethod
    def ask(client: Any, messages: Any, **options: Any) -> Any:
        return client.chat.completions.create(
            model="fake", messages=messages, **options
        )

    @staticmethod
    def text(said: Any) -> str:
        return str(said.choices[0].message.content)

    @staticmethod
    def piece(event: Any) -> str:
        return str(event.choices[0].delta.content)

    @staticmethod
    def event(word: str) -> bytes:
        delta = {"index": 0, "delta": {"content": word}}
        chunk = {**COMPLETION, "object": "chat.completion.chunk", "choices": [delta]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    end = b"data: [DONE]\n\n"


class Anthropic:
    """What is anthropic's own."""

    name = "Anthropic"
    path = "/v1/messages"
    answer = json.dumps(MESSAGE).encode()

    @staticmethod
    def ask(client: Any, messages: Any, **options: Any) -> Any:
        return client.messages.create(
            model="fake", max_tokens=9, messages=messages, **options
        )

    @staticmethod
    def text(said: Any) -> str:
        return str(said.content[0].text)

    @staticmethod
    def piece(event: Any) -> str:
        return str(event.delta.text) if event.type == "content_block_delta" else ""

    @staticmethod
    def event(word: str) -> bytes:
        delta = {"type": "text_delta", "text": word}
        kind = "content_block_delta"
        data = json.dumps({"type": kind, "index": 0, "delta": delta}).encode()
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    end = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'


class Caller:
    """An application in one colour, with one SDK.

    Args:
        sdk: The SDK.
        colour: Of its client.
        server: The provider.
    """

    def __init__(self, sdk: Any, colour: Colour, server: Server) -> None:
        self.sdk = sdk
        self.library: Any = pytest.importorskip(sdk.name.lower())
        self.is_async = colour == "async"
        self.server = server
        # What was heard of the last answer.
        self.said: list[str] = []

    @property
    def hits(self) -> int:
        return self.server.hits[self.sdk.path]

    def script(self, *answers: Answer) -> None:
        self.server.script(self.sdk.path, *answers)

    def well(self) -> list[Step]:
        return answer(200, JSON, self.sdk.answer)

    def ask(
        self,
        pipeline: Pipeline[Any] | None = None,
        *,
        stream: bool = False,
        protected: dict[str, Any] | None = None,
        **options: Any,
    ) -> str | Exception:
        """Ask over a transport of ours, by an SDK without retries of its own.

        Args:
            pipeline: That of the transport; None: a bare client.
            stream: Whether the answer is to stream.
            protected: What the transport is given besides.
            options: What the SDK is given besides.

        Returns:
            The text of an answer, or the error that comes in its place.
        """
        colour = "Async" if self.is_async else ""
        transport: Any = getattr(httpx2, f"{colour}HTTPTransport")(verify=context())
        if pipeline is not None:
            options_of_ours = {"inner": transport, **(protected or {})}
            transport = ResilientTransport(pipeline, **options_of_ours)
        http: Any = getattr(httpx2, f"{colour}Client")(
            transport=transport, trust_env=False
        )
        make: Any = getattr(self.library, colour + self.sdk.name)
        client = make(
            api_key="key",
            base_url=self.server.url,
            http_client=http,
            **{"max_retries": 0, **options},
        )
        messages = [{"role": "user", "content": "How are you?"}]
        said: list[str] = []
        self.said = said
        try:
            if self.is_async:
                asyncio.run(self._ask_async(client, messages, said, stream))
            else:
                self._ask(client, messages, said, stream)
        except Exception as error:
            return error
        return "".join(said)

    def _ask(self, client: Any, messages: Any, said: list[str], stream: bool) -> None:
        with client:
            answered = self.sdk.ask(client, messages, stream=stream)
            if not stream:
                said.append(self.sdk.text(answered))
                return
            with answered:
                said.extend(self.sdk.piece(event) for event in answered)

    async def _ask_async(
        self, client: Any, messages: Any, said: list[str], stream: bool
    ) -> None:
        async with client:
            answered = await self.sdk.ask(client, messages, stream=stream)
            if not stream:
                said.append(self.sdk.text(answered))
                return
            async with answered:
                async for event in answered:
                    said.append(self.sdk.piece(event))

    def same_as_bare(self, fault: Answer, **options: Any) -> Exception:
        """Return the error of a fault, which is the one that a bare client has."""
        self.script(fault)
        bare = self.ask(**options)
        ours = self.ask(standard(), **options)
        assert isinstance(ours, Exception)
        assert type(bare) is type(ours)
        return ours


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Any:
    """Of the client."""
    return request.param


@pytest.fixture(params=[OpenAI, Anthropic], ids=["openai", "anthropic"])
def caller(request: pytest.FixtureRequest, colour: Colour) -> Iterator[Caller]:
    """An application, and the provider that it asks."""
    with Server() as server:
        yield Caller(request.param, colour, server)


def pass_later(gate: Gate, pause: float, times: int = 1) -> threading.Thread:
    """Let so many pass, each after a pause."""

    def run() -> None:
        for _ in range(times):
            time.sleep(pause)
            gate.let_one_pass()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_an_answer_after_twelve_seconds_is_waited_for(caller: Caller) -> None:
    """The SDK states 600 s: our 10 s for an attempt give way."""
    gate = caller.server.gate()
    caller.script([gate, *caller.well()])
    thread = pass_later(gate, LATE)
    assert "well" == caller.ask(standard())
    assert 1 == caller.hits
    thread.join()


def test_a_stream_of_forty_seconds_is_heard_to_its_end(caller: Caller) -> None:
    """It is alive, so that the total of 30 s does not end it."""
    total = 30.0 * SCALE
    while True:
        pipeline = Pipeline(Timeout(total), classify=http_verdict)
        gate = caller.server.gate()
        events: list[Step] = [Head(200, EVENTS), caller.sdk.event(WORDS[0])]
        for word in WORDS[1:]:
            events += [gate, caller.sdk.event(word)]
        caller.script([*events, caller.sdk.end])
        thread = pass_later(gate, total * 4 / 3 / (PIECES - 1), PIECES - 1)
        with warnings.catch_warnings(action="ignore", category=ResilientWarning):
            said = caller.ask(pipeline, stream=True, protected={"stream_idle": 600})
        thread.join()
        if said == "".join(WORDS):
            break
        # NB: a machine may be so busy that the total is up before the headers come.
        assert isinstance(said, Exception)
        assert not caller.said
        total *= 4
        assert total < 600


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"retry-after-ms": "50"}),
        (429, {"retry-after": "1"}),
        (429, {}),
        (529, {}),
        (503, {"x-should-retry": "true"}),
    ],
    ids=["429 in ms", "429", "429 without a wait", "529", "503 that wants it"],
)
def test_a_refusal_is_sent_again(
    caller: Caller, status: int, headers: dict[str, str]
) -> None:
    """The server says that it did nothing, so that a POST is safe."""
    caller.script(answer(status, headers), caller.well())
    with instant():
        assert "well" == caller.ask(standard())
    assert 2 == caller.hits


FAULTS: dict[str, Answer] = {
    "503": answer(503, JSON, b'{"error": {"message": "busy"}}'),
    "500": answer(500, JSON, b'{"error": {"message": "broken"}}'),
    "reset": [Act.RESET],
    "truncated": [Head(200, {"content-length": "9", **JSON}), b"{", Act.CLOSE],
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_may_have_been_done_fails_as_with_a_bare_client(
    caller: Caller, fault: Answer
) -> None:
    """Once; with `retry_unsafe` it succeeds."""
    caller.same_as_bare(fault)
    assert 2 == caller.hits
    caller.script(fault, caller.well())
    with instant():
        said = caller.ask(standard(), protected={"retry_unsafe": True})
    assert "well" == said
    assert 4 == caller.hits


def test_an_answer_that_never_comes_fails_as_with_a_bare_client(
    caller: Caller,
) -> None:
    """With the SDK's own error, which ours has caused."""
    gate = caller.server.gate()
    error = caller.same_as_bare([gate], timeout=STALL)
    assert isinstance(error, caller.library.APITimeoutError)
    assert isinstance(error.__cause__, TimeoutExceededError)
    caller.server.wait_for(lambda: caller.hits == 2)
    gate.open()


@pytest.mark.parametrize("ends", ["stalls", "dies"])
def test_a_stream_that_fails_in_mid_sentence_is_not_repeated(
    caller: Caller, ends: str
) -> None:
    """Some of it was heard; the error is of the kind that a bare client has."""
    gate = caller.server.gate()
    fault: list[Step] = [Head(200, EVENTS), caller.sdk.event("half")]
    caller.script([*fault, gate if ends == "stalls" else Act.RESET])
    bare = caller.ask(stream=True, timeout=STALL)
    ours = caller.ask(standard(), stream=True, timeout=STALL)
    gate.open()
    assert isinstance(bare, Exception)
    assert isinstance(ours, type(bare))
    caller.server.wait_for(lambda: caller.hits == 2)


def test_retries_of_the_sdk_are_told_once(caller: Caller) -> None:
    """Its three tries times our three."""
    caller.script(answer(429, {"retry-after-ms": "1"}))
    match = "max_retries=0 of an OpenAI or Anthropic client"
    with instant(), pytest.warns(ResilientWarning, match=match) as told:
        error = caller.ask(standard(), max_retries=2)
    assert isinstance(error, caller.library.RateLimitError)
    assert (1, 9) == (len(told), caller.hits)
