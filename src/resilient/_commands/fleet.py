"""``resilient fleet``: what processes share through a server, as it stands there.

A reset is the same order that a member gives with ``reset(fleet=True)``: the members'
own memory of the state does not undo it, as it would undo the deletion of a key.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from resilient._machines.quorum import FORCED, OPEN, RESET, Report
from resilient._machines.shared_bucket import Ask
from resilient._sharing.store import key_start

__all__ = ["fleet"]

_BATCH: Final = 500
"""Commands in one exchange: a PerKey may have thousands of keys."""

_COLUMNS: Final = ("KIND", "NAME", "MEMBERS", "STATE")


def fleet(url: str, prefix: str, *, reset: str | None = None) -> int:
    """Print every shared policy, how many members it has, and its state.

    Args:
        url: Of the server, as redis-py has it, or of any in a cluster.
        prefix: What the store's keys begin with.
        reset: Which policies to reset before, by their name; None: none.

    Returns:
        The exit code: 1 where the server cannot be asked, or there is nothing to
        reset.
    """
    try:
        import redis
    except ModuleNotFoundError:
        return _fail("it needs redis-py; run: pip install 'resilient-pipeline[redis]'")
    try:
        with ExitStack() as stack:
            client = _client(redis, url, stack)
            start = key_start(prefix)
            known = reset is None or _reset(client, start, reset)
            rows = _rows(client, start)
    except (ValueError, redis.RedisError) as error:
        # NB: its kind alone: its text may have the URL, and so a password.
        return _fail(f"the server cannot be asked: {type(error).__name__}")
    if not known:
        return _fail(
            f"no bucket, budget or circuit {reset!r} is shared under the prefix"
            f" {prefix!r}"
        )
    if not rows:
        sys.stdout.write(f"no policy is shared under the prefix {prefix!r}\n")
        return 0
    table = [_COLUMNS, *sorted(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def _client(redis: Any, url: str, stack: ExitStack) -> Any:
    """Return a client of a server, or of the cluster that it is in.

    Args:
        redis: The package.
        url: Of the server.
        stack: Closes the client.
    """
    timeouts = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
    client = redis.Redis.from_url(url, decode_responses=True, **timeouts)
    stack.callback(client.connection_pool.disconnect)
    try:
        is_in_cluster = client.info("cluster").get("cluster_enabled")
    except redis.ResponseError:
        # The user has not the right to ask.
        is_in_cluster = False
    if is_in_cluster:
        client = redis.RedisCluster.from_url(url, decode_responses=True, **timeouts)
        # NB: its `close` leaves the connections of its servers open.
        stack.callback(client.disconnect_connection_pools)
    return client


def _fail(text: str) -> int:
    sys.stderr.write(f"resilient fleet: {text}\n")
    return 1


def _reset(client: Any, start: str, name: str) -> bool:
    """Reset what is shared by a name, for all keys of a PerKey.

    Returns:
        Whether there is anything.
    """
    from resilient.redis._transport import (
        BUCKET,
        CIRCUIT,
        arguments,
        member_arguments,
    )

    keys = [
        (key, kind)
        for key, kind, its_name in _shared(client, start)
        if its_name == name or its_name.startswith(f"{name}:")
    ]
    buckets = [key for key, kind in keys if kind in ("bucket", "budget")]
    commands = [("HMGET", key, "rate", "capacity", "order_number") for key in buckets]
    resets: list[tuple[Any, ...]] = []
    for key, numbers in zip(buckets, _all(client, commands), strict=True):
        # NB: a key may have ended meanwhile: then it is as good as reset.
        if numbers[0] is not None:
            rate, capacity, order = [float(number or 0.0) for number in numbers]
            # As a member that does not know the last order, whose numbers hold.
            ask = Ask(rate, capacity, reset=1.0, order_number=order - 1.0)
            resets.append(("EVALSHA", BUCKET.sha, 1, key, *arguments(ask)))
    closing = member_arguments(Report("", order=RESET))
    circuits = [key for key, kind in keys if kind == "circuit"]
    resets += [("EVALSHA", CIRCUIT.sha, 1, key, *closing) for key in circuits]
    for script in (BUCKET, CIRCUIT):
        client.script_load(script.text)
    if hasattr(client, "nodes_manager"):
        # NB: the client of a cluster runs no script in a batch.
        for script_call in resets:
            client.execute_command(*script_call)
    else:
        _all(client, resets)
    return bool(buckets or circuits)


def _shared(client: Any, start: str) -> list[tuple[str, str, str]]:
    """Return the key, kind and name of all that is shared."""
    # NB: a scan may return a key twice.
    keys = sorted(set(client.scan_iter(match=f"{start}*}}", count=_BATCH)))
    return [(key, *key[len(start) : -1].partition(":")[::2]) for key in keys]


def _all(client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    """Send commands, many in one exchange; return what is answered."""
    answers: list[Any] = []
    for first in range(0, len(commands), _BATCH):
        pipe = client.pipeline(transaction=False)
        for command in commands[first : first + _BATCH]:
            pipe.execute_command(*command)
        answers += pipe.execute()
    return answers


def _rows(client: Any, start: str) -> list[tuple[str, ...]]:
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    known = {*_STATES, "cache"}
    shared = [one for one in _shared(client, start) if one[1] in known]
    # The keys of a PerKey, `login:5f4d…`, are counted together.
    crews = [(kind, name.partition(":")[0]) for _, kind, name in shared]
    once = sorted(set(crews))
    counts = [("ZCARD", f"{start}{kind}:{name}}}:members") for kind, name in once]
    members = dict(zip(once, _all(client, counts), strict=True))
    states = _all(client, [_look(key, kind) for key, kind, _ in shared])
    rows: list[tuple[str, ...]] = []
    values: dict[tuple[str, str], list[Any]] = {}
    for (_, kind, name), crew, state in zip(shared, crews, states, strict=True):
        if kind == "cache":
            # NB: in one row, for there may be thousands.
            values.setdefault(crew, []).append(state)
        elif state:
            # NB: a key may have ended meanwhile.
            rows.append((kind, name, str(members[crew]), _STATES[kind](state, now)))
    for crew, kept in values.items():
        rows.append((*crew, str(members[crew]), _cache(kept, now)))
    return rows


def _look(key: str, kind: str) -> tuple[Any, ...]:
    # NB: not at the content of a value, which may be no text.
    return ("HMGET", key, "end", "held") if kind == "cache" else ("HGETALL", key)


def _numbers(stored: Mapping[str, str]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in stored.items()
        if name != "holder" and not name.startswith("m:")
    }


def _members(stored: Mapping[str, str]) -> list[list[float]]:
    return [
        [float(number) for number in value.split()]
        for name, value in stored.items()
        if name.startswith("m:")
    ]


def _bucket(stored: Mapping[str, str], now: float) -> str:
    known = _numbers(stored)
    refill = known["rate"] * max(0.0, now - known["time"])
    level = min(known["capacity"], known["level"] + refill)
    return f"{level:.1f} of {known['capacity']:g}, {known['rate']:g} a second"


def _circuit(stored: Mapping[str, str], now: float) -> str:
    known = _numbers(stored)
    if known["open"] == FORCED:
        return "forced open"
    if known["open"] == OPEN:
        text = f"open, {max(0.0, known['until'] - now):.1f} s more"
        text += f"; {known['failures']:g} of {known['calls']:g} calls failed"
        probing = stored["holder"] and now < known["held"]
        return text + ("; one member probes" if probing else "")
    rows = [row for row in _members(stored) if 0 <= now - row[0] < row[1]]
    calls, failures, failing = (sum(row[place] for row in rows) for place in (2, 3, 5))
    text = f"closed; {failures:g} of {calls:g} calls failed"
    return f"{text}; {failing:g} of {len(rows)} members fail"


def _slots(stored: Mapping[str, str], now: float) -> str:
    known = _numbers(stored)
    time = now - known["shift"]
    shares = [share for share in _members(stored) if time < share[1]]
    text = f"{sum(share[0] for share in shares):g} of {known['limit']:g} on lease"
    lacking = sum(share[2] for share in shares)
    text += f"; {lacking:g} members lack some" if lacking else ""
    return text + ("; learning" if time < known["learning"] else "")


def _cache(values: Sequence[Sequence[str | None]], now: float) -> str:
    kept, held = (
        sum(float(one[place] or 0.0) > now for one in values) for place in (0, 1)
    )
    return f"{kept} values" + (f"; {held} are made anew" if held else "")


_STATES = {
    "bucket": _bucket,
    "budget": _bucket,
    "circuit": _circuit,
    "slots": _slots,
}
