"""Batches of asks as scripts of a Redis or Valkey server.

One pipeline of EVALSHA a batch, through an ordinary synchronous client. What
the client would do by itself is turned off: an exchange that is sent again
could credit twice. The errors of redis-py and of valkey-py have the same names
and no class in common, so they are told by name.

A script's SHA1 is its version. NOSCRIPT, and nothing else, is answered by
loading the script and asking again: then it cannot have run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias

from resilient._events.listeners import log_warning_once
from resilient._machines.allotment import Claim, Grant
from resilient._machines.quorum import Report, Verdict
from resilient._machines.shared_bucket import Answer, Ask
from resilient._machines.shared_value import Found, ValueAsk
from resilient._sharing.courier import NotSentError, Reply, Request, reason_of
from resilient._sharing.store import key_start

__all__ = [
    "BUCKET",
    "CIRCUIT",
    "MEMBERS",
    "SLOTS",
    "VALUE",
    "Command",
    "RedisTransport",
    "Script",
    "arguments",
    "is_error",
    "member_arguments",
    "value_arguments",
]


class Script:
    """A script and its SHA1.

    Args:
        name: Its file, in this package.
    """

    def __init__(self, name: str) -> None:
        self.text = files("resilient.redis").joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


BUCKET: Final = Script("bucket.lua")
CIRCUIT: Final = Script("circuit.lua")
MEMBERS: Final = Script("members.lua")
SLOTS: Final = Script("slots.lua")
VALUE: Final = Script("value.lua")

Command: TypeAlias = tuple[Script, str, list[Any]]
"""A script, its key and its arguments."""

# Lua reads no "inf".
_LARGEST: Final = 1e308


class RedisTransport:
    """Sends batches to one server.

    Args:
        client: A synchronous client that tries nothing twice.
        prefix: What the keys begin with.
    """

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._start = key_start(prefix)
        # Exchanges after which to look at the server's settings.
        self._looks_in = 1

    def exchange(self, requests: list[Request]) -> list[Reply]:
        commands: list[Command] = []
        for request in requests:
            key = f"{self._start}{request.member.key}}}"
            if isinstance(request.ask, Report):
                commands.append((CIRCUIT, key, member_arguments(request.ask)))
            elif isinstance(request.ask, Claim):
                commands.append((SLOTS, key, member_arguments(request.ask)))
            elif isinstance(request.ask, ValueAsk):
                commands.append((VALUE, key, value_arguments(request.ask)))
            else:
                commands.append((BUCKET, key, arguments(request.ask)))
            if request.enlists:
                crew = request.member.crew
                key = f"{self._start}{crew.key}}}:members"
                commands.append((MEMBERS, key, [crew.id]))
        # NB: not in the first exchange, which a call may wait for.
        if self._looks_in == 0:
            self._look()
        self._looks_in -= 1
        results = self._results(commands)
        replies: list[Reply] = []
        for request in requests:
            said = results.pop(0)
            members = results.pop(0) if request.enlists else None
            replies.append(_reply(request.ask, said, members))
        return replies

    def _look(self) -> None:
        """Warn of a server that evicts keys; one that does not tell is believed."""
        try:
            memory = self._memory()
        except Exception:
            # It has not the right, or the store is lost, which is noticed elsewhere.
            return
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            log_warning_once(
                f"eviction {self._prefix}",
                "the server of the store with the prefix %r evicts keys (%s): a shared"
                " limit whose key is evicted begins anew; set maxmemory-policy to"
                " noeviction, or use a server of its own",
                self._prefix,
                policy,
            )

    def _memory(self) -> dict[str, Any]:
        """Return what a server tells of its memory."""
        memory: dict[str, Any] = self._client.info("memory")
        return memory

    def ping(self) -> None:
        self._client.ping()

    def close(self) -> None:
        self._client.connection_pool.disconnect()

    def _results(self, commands: list[Command], *, asking: bool = False) -> list[Any]:
        """Return what is answered to each command, or the error.

        Args:
            commands: The commands.
            asking: Whether the server is only about to have the key of each.

        Raises:
            NotSentError: Nothing has arrived.
            Exception: Something may have.
        """
        self._connect()
        results = self._send(commands, asking)
        missing = [
            place
            for place, result in enumerate(results)
            if is_error(result, "NoScriptError")
        ]
        if missing:
            for script in {commands[place][0] for place in missing}:
                self._client.script_load(script.text)
            again = self._send([commands[place] for place in missing], asking)
            for place, result in zip(missing, again, strict=True):
                results[place] = result
        if any(is_error(result, "ReadOnlyError") for result in results):
            # NB: else the connection stays with a primary that is none any more,
            # and a name that stands for another server now is not looked up.
            self.close()
        return results

    def _connect(self) -> None:
        """Have a connection, so that what fails later may have arrived."""
        pool = self._client.connection_pool
        try:
            try:
                connection = pool.get_connection()
            except TypeError:
                # valkey-py is to be told a command, of which it makes nothing.
                connection = pool.get_connection("EVALSHA")
            pool.release(connection)
        except Exception as error:
            raise NotSentError from error

    def _send(self, commands: Sequence[Command], asking: bool) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for script, key, args in commands:
            if asking:
                pipe.execute_command("ASKING")
            pipe.execute_command("EVALSHA", script.sha, 1, key, *args)
        results: list[Any] = pipe.execute(raise_on_error=False)
        return results[1::2] if asking else results


def arguments(ask: Ask) -> list[str]:
    """Return the arguments of the bucket's script; the time may follow."""
    recall = ask.recall or (0.0, 0.0, -1.0, 0.0)
    numbers = [*ask[:-1], *recall]
    return [repr(max(-_LARGEST, min(_LARGEST, number))) for number in numbers]


def member_arguments(told: Report | Claim) -> list[str]:
    """Return the arguments of the circuit's or the slots' script; likewise."""
    id_, *numbers = told
    return [id_, *[repr(max(-_LARGEST, min(_LARGEST, one))) for one in numbers]]


def value_arguments(ask: ValueAsk) -> list[Any]:
    """Return the arguments of a value's script; likewise."""
    verb, id_, *numbers, content = ask
    return [verb, id_, *[repr(number) for number in numbers], content]


def _reply(ask: Ask | Report | Claim | ValueAsk, said: Any, members: Any) -> Reply:
    counted = members if isinstance(members, int) else None
    if isinstance(said, NotSentError):
        return Reply(None, counted, reason_of(said), sent=False)
    if isinstance(said, Exception):
        return Reply(None, counted, _refusal(said))
    if isinstance(ask, Report):
        return Reply(Verdict(*map(float, said)), counted)
    if isinstance(ask, Claim):
        return Reply(Grant(*map(float, said)), counted)
    if isinstance(ask, ValueAsk):
        content, *numbers = said
        age, now, right = map(float, numbers)
        return Reply(Found(content if age >= 0.0 else None, age, now, right), counted)
    granted, level, now, credited, rate, capacity, lost, *order = map(float, said)
    answer = Answer(granted, level, now, credited, rate, capacity, lost == 1.0, *order)
    if not math.isfinite(level):  # pragma: no cover - the scripts give none
        return Reply(None, counted, "a level that is no number")
    return Reply(answer, counted)


def is_error(result: object, name: str) -> bool:
    """Whether it is an error of a client that has this name."""
    return isinstance(result, Exception) and any(
        kind.__name__ == name for kind in type(result).__mro__
    )


def _refusal(error: Exception) -> str:
    """Return why a server refused a script, without what it was given."""
    text = str(error)
    if "non deterministic" in text:
        return "the server is older than Redis 5"
    kind = type(error).__name__
    # NB: of a refusal that has a class of its own the client drops the first word.
    return text.split(maxsplit=1)[0] if text and kind == "ResponseError" else kind
