"""Copies of a policy with other numbers: ``retry.attempts=2``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from resilient._policy.policy import Policy
from resilient._values.spelling import arguments_of, parameters_of
from resilient._values.traits import Trait
from resilient.simulation._copies import members
from resilient.simulation._near import near


def changed(policy: Policy[Any], changes: Mapping[str, Any]) -> Policy[Any]:
    """Return a copy of a policy with other arguments of those that stand in it.

    Args:
        policy: A policy or pipeline.
        changes: New values by ``policy.parameter``. A policy goes by its name or its
            kind, as ``circuit_breaker``; the second of a kind is ``timeout[2]``.

    Raises:
        ValueError: There is no such policy or parameter, or there are several.
        TypeError: The policy refuses the value.
    """
    wanted: dict[int, dict[str, Any]] = {}
    for place, value in changes.items():
        found, parameter = _found(policy, place)
        wanted.setdefault(id(found), {})[parameter] = value
    return _changed(policy, wanted)


def present(policy: Policy[Any], place: str) -> Any:
    """Return the value of ``policy.parameter`` as it is.

    Raises:
        ValueError: There is no such policy or parameter, or there are several.
    """
    found, parameter = _found(policy, place)
    return arguments_of(found, Policy)[1].get(parameter)


def _found(policy: Policy[Any], place: str) -> tuple[Policy[Any], str]:
    """Return the policy and the name of its parameter that are meant."""
    keys = dict(_keys(policy))
    name, _, parameter = place.rpartition(".")
    if name not in keys:
        several = [key for key in keys if key.startswith(f"{name}[")]
        hint = f"there are {', '.join(several)}" if several else _hint(name, keys)
        raise ValueError(f"`{place}`: no policy is {name!r}: {hint}")
    known = parameters_of(keys[name])
    if parameter not in known:
        raise ValueError(
            f"`{place}`: no parameter is {parameter!r}: {_hint(parameter, known)}"
        )
    return keys[name], parameter


def _changed(policy: Policy[Any], wanted: Mapping[int, dict[str, Any]]) -> Policy[Any]:
    if Trait.COMPOSES in policy.traits:
        inside = tuple(_changed(child, wanted) for child in policy.children())
        return policy.with_(policies=inside)
    return policy.with_(**wanted[id(policy)]) if id(policy) in wanted else policy


def _keys(policy: Policy[Any]) -> Iterator[tuple[str, Policy[Any]]]:
    """Yield what policies go by, and the policies."""
    found = members(policy)
    kinds = [_snake(type(each).__name__) for each in found]
    seen: dict[str, int] = {}
    for each, kind in zip(found, kinds, strict=True):
        seen[kind] = seen.get(kind, 0) + 1
        yield (kind if kinds.count(kind) == 1 else f"{kind}[{seen[kind]}]"), each
        if each.name is not None:
            yield each.name, each


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _hint(name: str, known: Mapping[str, object]) -> str:
    return near(name, known) or f"there are {', '.join(known)}"
