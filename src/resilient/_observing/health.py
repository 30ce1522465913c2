"""What can be seen of every policy now: for `health`, and for metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast

from resilient._events.counters import all_counters
from resilient._events.listeners import log_once
from resilient._observing.shown import shown
from resilient._policy import policy as policy_module
from resilient._policy.policy import Policy
from resilient._values.records import Record
from resilient._values.traits import Trait

CALLS: Final = "resilient.calls"

# How the statuses of many policies make one; what is not named is added up.
_MERGES: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {
    "balance.panic": max,
    "budget.balance": min,
    "budget.capacity": min,
    "circuit.failure_rate": max,
    "circuit.slow_rate": max,
    "discovery.age": max,
    "endpoints.least": min,
    "hedge.delay": max,
    "limiter.tokens": min,
    "retry_after": max,
    "saturation": max,
    "seconds_in_state": max,
    "shedder.level": max,
    "store.members": max,
    "store.up": min,
    "throttle.rejecting": max,
}


class Reading(Record):
    """What was seen of one policy.

    Attributes:
        pipeline, policy: What telemetry calls the two: see `Policy.placement`.
        named: Whether the pipeline has a name of its own.
        kind: The type of the policy.
        traits: What it may do.
        many: Whether it stands inside a `PerKey`.
        status: What it said.
    """

    __slots__ = ("kind", "many", "named", "pipeline", "policy", "status", "traits")

    pipeline: str
    policy: str
    named: bool
    kind: type[Policy[Any]]
    traits: Trait
    many: bool
    status: dict[str, Any]


def readings() -> Iterator[Reading]:
    """Look at every policy, and at those inside each `PerKey`."""
    for reference in policy_module.living.valuerefs():
        policy = reference()
        reading = None if policy is None else _read(policy, many=False)
        if policy is None or reading is None:
            continue
        yield reading
        if Trait.KEYED in reading.traits:
            for member in _inside(policy, set()):
                inside = _read(member, many=True)
                if inside is not None:
                    yield inside


def _read(policy: Policy[Any], *, many: bool) -> Reading | None:
    """Look at a policy; None: it is half made, or its status fails."""
    try:
        root, pipeline, name = policy.placement
        whole = root()
        named = whole is not None and whole.name is not None
        return Reading(
            pipeline, name, named, type(policy), policy.traits, many, policy.status()
        )
    except AttributeError:
        # Another thread is making it, or its construction failed.
        return None
    except Exception:
        log_once(f"the status of a {type(policy).__name__} failed")
        return None


def _inside(policy: Policy[Any], seen: set[int]) -> Iterator[Policy[Any]]:
    for child in policy.children():
        # A factory may give several keys the same policy.
        if id(child) not in seen:
            seen.add(id(child))
            yield child
            yield from _inside(child, seen)


def merged(key: str, values: list[Any]) -> Any:
    """Make one value of those that several policies have for a key.

    States are counted, mappings merged item by item.
    """
    values = [value for value in values if value is not None]
    if not values:
        return None
    if isinstance(values[0], str):
        return {state: values.count(state) for state in sorted(set(values))}
    if isinstance(values[0], Mapping):
        mappings = cast("list[Mapping[str, Any]]", values)
        items = sorted({item for mapping in mappings for item in mapping})
        return {
            item: merged(
                key, [mapping[item] for mapping in mappings if item in mapping]
            )
            for item in items
        }
    return _MERGES.get(key, sum)(values)


def health() -> dict[str, Any]:
    """Return how every named pipeline is, for a readiness endpoint or a person.

    It reads what is there, locks nothing for long and runs none of your code.
    Whether a circuit that is open makes the process unready is yours to say:
    mostly not, for its other answers are still good.

    Returns:
        By name of the pipeline (or of a policy that is used alone), the
        ``calls`` that ended, by outcome, and its ``policies``, each with its
        name, its kind, and what `Policy.status` says: states, seconds in that
        state, rates, saturation, in the words of the metrics. What stands
        inside a `PerKey` is summed up by kind, with the number of ``keys``. And
        by its name what a `Supervisor`, `Lifecycle` or `HostMonitor` says of itself.
        Only dictionaries, lists, strings, numbers and None: as JSON has it.
    """
    found: dict[str, dict[str, Any]] = {}
    many: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for reading in readings():
        if not reading.named:
            continue
        pipeline = found.setdefault(reading.pipeline, {"calls": {}, "policies": []})
        if Trait.COMPOSES in reading.traits:
            continue
        kind = reading.kind.__name__
        if reading.many:
            place = reading.pipeline, reading.policy, kind
            many.setdefault(place, []).append(reading.status)
        else:
            entry = {"policy": reading.policy, "kind": kind, **reading.status}
            pipeline["policies"].append(entry)
    for (name, policy, kind), statuses in many.items():
        keys = sorted({key for status in statuses for key in status})
        status = {
            key: merged(key, [status.get(key) for status in statuses]) for key in keys
        }
        entry = {"policy": policy, "kind": kind, "keys": len(statuses), **status}
        found[name]["policies"].append(entry)
    for name, counters in all_counters().items():
        if name in found:
            calls = {"success": counters.successes}
            for (metric, *labels), number in list(counters.counts.items()):
                if metric == CALLS:
                    calls[labels[0]] = calls.get(labels[0], 0) + number
            found[name]["calls"] = calls
    for name, status in shown():
        found.setdefault(name, {}).update(status)
    return found
