"""Copies of policies for the clients of a simulation.

Ground rules:

* Each client has policies of its own, as each process has. What is one object in the
  original, a `RetryBudget` in two policies, is one object in each copy.
* The user's own objects are read and never called through, so that their state,
  counters and listeners stay as they are.
* What would act on the world outside is left out: the function of a `Fallback`, what a
  `Retry` calls before it tries again, and stores.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, TypeGuard

from resilient._errors.errors import ResilientWarning
from resilient._policy.policy import Policy
from resilient._policy.retry_budget import RetryBudget
from resilient._runtimes.runtime import Sentinel
from resilient._values.spelling import arguments_of
from resilient._values.traits import Trait
from resilient.policies.balance import Balance
from resilient.policies.balance.sources import is_source
from resilient.policies.coalesce import Coalesce
from resilient.policies.fallback import Fallback
from resilient.policies.per_key import PerKey
from resilient.policies.retry import Retry
from resilient.policies.stale_cache import StaleCache

FELL_BACK = Sentinel("FELL_BACK")
"""What a `Fallback` answers in a simulation."""


def copy_policy(policy: Policy[Any], memo: dict[int, Any]) -> Policy[Any]:
    """Return a copy for one client, with fresh state, that nothing else sees.

    Args:
        policy: The user's.
        memo: What was copied for this client, by the identity of the original.

    Raises:
        ValueError: The policy cannot be simulated; the text says why.
    """
    with warnings.catch_warnings():
        # The original has warned of its order.
        warnings.simplefilter("ignore", ResilientWarning)
        copied: Policy[Any] = _copied(policy, memo)
    copied._unregister()  # pyright: ignore[reportPrivateUsage]  # ours
    return copied


def _copied(thing: Any, memo: dict[int, Any]) -> Any:
    if id(thing) in memo:
        return memo[id(thing)]
    kind: type[object] = type(thing)  # pyright: ignore[reportUnknownVariableType]  # any
    if issubclass(kind, tuple):
        return tuple(_copied(part, memo) for part in thing)
    if issubclass(kind, (Policy, RetryBudget)):
        if getattr(thing, "shared", None) is not None:
            raise ValueError(
                f"{thing!r} shares its state through a store, which a simulation"
                " does not have: give it a copy without, as .with_(shared=None) makes"
            )
        copied = issubclass(kind, RetryBudget)
        made = copy.copy(thing) if copied else _made_again(thing, memo)
        memo[id(thing)] = made
        return made
    return thing


def _made_again(policy: Policy[Any], memo: dict[int, Any]) -> Policy[Any]:
    positional, given = arguments_of(policy, Policy)
    if _is_balance(policy):
        if any(map(is_source, policy.addresses)):
            raise ValueError(
                f"{policy!r} finds its endpoints by a source, which a simulation does"
                " not ask: give it a copy with addresses"
            )
        if callable(policy.affinity):
            given = {**given, "affinity": key_of}
    keywords: dict[str, Any] = {
        key: _copied(value, memo) for key, value in given.items()
    }
    if isinstance(policy, Fallback):
        keywords |= {"value": FELL_BACK, "function": None}
    elif isinstance(policy, Retry):
        keywords["before_retry"] = None
    elif isinstance(policy, StaleCache):
        keywords |= {"store": None, "copy": None}
    if isinstance(policy, (Coalesce, PerKey, StaleCache)):
        keywords["key"] = key_of
    kind: Any = type(policy)
    made: Policy[Any] = kind(*_copied(positional, memo), **keywords)
    return made


def key_of(request: Any) -> Any:
    """Return what policies tell simulated requests apart by."""
    return request.key


def members(policy: Policy[Any]) -> list[Policy[Any]]:
    """Return a policy and all that stands in it, but for pipelines."""
    found = [] if Trait.COMPOSES in policy.traits else [policy]
    for child in policy.children():
        found += members(child)
    return found


def balances(policy: Policy[Any]) -> list[Balance[Any]]:
    """Return those of the members that choose endpoints."""
    return [each for each in members(policy) if _is_balance(each)]


def _is_balance(policy: Policy[Any]) -> TypeGuard[Balance[Any]]:
    # NB: `isinstance` narrows to a balance of addresses of which nothing is known.
    return isinstance(policy, Balance)
