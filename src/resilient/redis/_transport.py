"""Batches of asks as scripts of a Redis or Valkey server.

One pipeline of EVALSHA a batch, through an ordinary synchronous client. What
the client would do by itself is turned off: an exchange that is sent again
could credit twice.

A script's SHA1 is its version. NOSCRIPT, and nothing else, is answered by
loading the script and asking again: then it cannot have run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from resilient._events.listeners import log_warning_once
from resilient._machines.allotment import Claim, Grant
from resilient._machines.quorum import Report, Verdict
from resilient._machines.shared_bucket import Answer, Ask
from resilient._sharing.courier import NotSentError, Reply, Request
from resilient._sharing.store import key_start

__all__ = [
    "BUCKET",
    "CIRCUIT",
    "MEMBERS",
    "SLOTS",
    "RedisTransport",
    "Script",
    "arguments",
    "member_arguments",
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

# Lua reads no "inf".
_LARGEST: Final = 1e308


class RedisTransport:
    """Sends batches to one server.

    Args:
        client: A synchronous client that tries nothing twice.
        prefix: What the keys begin with.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._prefix = prefix
        self._start = key_start(prefix)
        # Exchanges after which to look at the server's settings.
        self._looks_in = 1

    def exchange(self, requests: list[Request]) -> list[Reply]:
        commands: list[tuple[Script, str, list[Any]]] = []
        for request in requests:
            key = f"{self._start}{request.member.key}}}"
            if isinstance(request.ask, Report):
                commands.append((CIRCUIT, key, member_arguments(request.ask)))
            elif isinstance(request.ask, Claim):
                commands.append((SLOTS, key, member_arguments(request.ask)))
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
            memory = self._client.info("memory")
        except (RedisError, OSError):
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

    def ping(self) -> None:
        self._client.ping()

    def close(self) -> None:
        self._client.connection_pool.disconnect()

    def _results(self, commands: list[tuple[Script, str, list[Any]]]) -> list[Any]:
        self._connect()
        results = self._send(commands)
        missing = [
            place
            for place, result in enumerate(results)
            if isinstance(result, NoScriptError)
        ]
        if missing:
            for script in {commands[place][0] for place in missing}:
                self._client.script_load(script.text)
            again = self._send([commands[place] for place in missing])
            for place, result in zip(missing, again, strict=True):
                results[place] = result
        return results

    def _connect(self) -> None:
        """Have a connection, so that what fails later may have arrived."""
        pool = self._client.connection_pool
        try:
            pool.release(pool.get_connection())
        except (RedisError, OSError) as error:
            raise NotSentError from error

    def _send(self, commands: Sequence[tuple[Script, str, list[Any]]]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for script, key, args in commands:
            pipe.execute_command("EVALSHA", script.sha, 1, key, *args)
        results: list[Any] = pipe.execute(raise_on_error=False)
        return results


def arguments(ask: Ask) -> list[str]:
    """Return the arguments of the bucket's script; the time may follow."""
    recall = ask.recall or (0.0, 0.0, -1.0, 0.0)
    numbers = [*ask[:-1], *recall]
    return [repr(max(-_LARGEST, min(_LARGEST, number))) for number in numbers]


def member_arguments(told: Report | Claim) -> list[str]:
    """Return the arguments of the circuit's or the slots' script; likewise."""
    id_, *numbers = told
    return [id_, *[repr(max(-_LARGEST, min(_LARGEST, one))) for one in numbers]]


def _reply(ask: Ask | Report | Claim, said: Any, members: Any) -> Reply:
    counted = members if isinstance(members, int) else None
    if isinstance(said, RedisError):
        return Reply(None, counted, _refusal(said))
    if isinstance(ask, Report):
        return Reply(Verdict(*map(float, said)), counted)
    if isinstance(ask, Claim):
        return Reply(Grant(*map(float, said)), counted)
    granted, level, now, credited, rate, capacity, lost, *order = map(float, said)
    answer = Answer(granted, level, now, credited, rate, capacity, lost == 1.0, *order)
    if not math.isfinite(level):  # pragma: no cover - the scripts give none
        return Reply(None, counted, "a level that is no number")
    return Reply(answer, counted)


def _refusal(error: RedisError) -> str:
    """Return why a server refused a script, without what it was given."""
    text = str(error)
    if "non deterministic" in text:
        return "the server is older than Redis 5"
    if isinstance(error, RedisConnectionError):  # pragma: no cover - raised before
        return type(error).__name__
    return text.split(maxsplit=1)[0] if text else type(error).__name__
