"""What policies that share their state through a store have in common.

Here and not in `_sharing`, which is loaded when a policy is given a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from resilient._events.events import Event
from resilient._policy.policy import Policy

if TYPE_CHECKING:
    from resilient._sharing.member import SharedState

Shared = TypeVar("Shared")


def emit_of_store(policy: Policy[Any], kind: type[Event], *values: Any) -> bool:
    """Tell a policy's listeners of an event of the store that it shares through.

    It returns whether there are any.

    Args:
        policy: The policy.
        kind: The event.
        *values: Of its attributes.
    """
    heard = policy.has_listeners
    if heard:
        policy.emit(kind(policy.label, None, *values))
    return heard


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


def check_made_for_key(policy: object, shared: SharedState | None, what: str) -> None:
    """Refuse a shared policy inside a PerKey whose state is not that of the key.

    Raises:
        ValueError: It was made elsewhere, or for another key.
    """
    if shared is not None and not shared.is_for_this_key:
        raise ValueError(
            f"{policy!r} must be made by the factory of its PerKey, for one key: else"
            f" several keys would share {what}"
        )
