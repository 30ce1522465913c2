"""The policies of this process, for those who look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resilient._events.events import Event
from resilient._policy import policy
from resilient._policy.policy import Policy


def policies() -> Iterator[Policy[Any]]:
    """Yield every policy there is; what is inside a `PerKey` is found in it.

    One may be half made, by another thread, and lack attributes.
    """
    for reference in policy.living.valuerefs():
        found = reference()
        if found is not None:
            yield found


def emit_of_store(policy: Policy[Any], kind: type[Event], *values: Any) -> None:
    """Tell a policy's listeners of an event of the store that it shares through.

    Args:
        policy: The policy.
        kind: The event.
        *values: Of its attributes.
    """
    if policy.has_listeners:
        policy.emit(kind(policy.label, None, *values))


def shared_in_per_key(policy: Policy[Any], what: str) -> ValueError:
    """Return the error of a shared policy that stands inside a PerKey."""
    return ValueError(
        f"{policy!r} cannot be shared inside a PerKey: all keys would share {what}"
    )
