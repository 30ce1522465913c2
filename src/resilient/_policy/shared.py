"""What policies that share their state through a store have in common.

Here and not in `_sharing`, which is loaded when a policy is given a store.
"""

from __future__ import annotations

from typing import Any, TypeVar

from resilient._events.events import Event
from resilient._policy.policy import Policy

Shared = TypeVar("Shared")


def emit_of_store(policy: Policy[Any], kind: type[Event], *values: Any) -> None:
    """Tell a policy's listeners of an event of the store that it shares through.

    Args:
        policy: The policy.
        kind: The event.
        *values: Of its attributes.
    """
    if policy.has_listeners:
        policy.emit(kind(policy.label, None, *values))


def fleet_of(policy: object, shared: Shared | None) -> Shared:
    """Return what a policy shares, to have all processes do what it does.

    Raises:
        ValueError: It shares nothing.
    """
    if shared is None:
        raise ValueError(
            f"`fleet` must be False without `shared`, got True for {policy!r}: no other"
            " process has it"
        )
    return shared


def shared_in_per_key(policy: Policy[Any], what: str) -> ValueError:
    """Return the error of a shared policy that stands inside a PerKey."""
    return ValueError(
        f"{policy!r} cannot be shared inside a PerKey: all keys would share {what}"
    )
