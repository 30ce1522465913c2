"""Flights: who waits for which execution.

Ground rules:

* A flight is one execution that several callers wait for: its passengers. Who
  asks for a key that has a flight joins it; else a flight begins with them.
* It is found by its key until it lands or the last passenger has left. From
  then on the key is free, even while what was cancelled still cleans up.
* Every method that ends a flight says so once: whoever comes second, a
  landing after a desertion or a leave after the landing, changes nothing.

============ =========================== ==================================
call         flight is under way         flight has ended
============ =========================== ==================================
join         one passenger more          (not called: it is not found)
leave        one less; True for the      False
             last: the flight is over
land         all passengers, in order    none
============ =========================== ==================================

A passenger may itself be inside other flights: those will not land before the
one it waits for. So flights wait for flights, and `closes_circle` tells who
must not join.

Deliberately not modelled: what an execution is, who runs it, and its result.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar


class Passenger:
    """Somebody who waits for a flight.

    Attributes:
        around: The flights that it is inside of.
    """

    __slots__ = ("around",)

    def __init__(self, around: Collection[Flight] = ()) -> None:
        self.around: Collection[Flight] = around


class Flight:
    """One execution.

    Attributes:
        key: What it is found by.
        passengers: Who waits for it, in the order they came.
        deserted: Whether everybody has left before it could land.
    """

    __slots__ = ("deserted", "key", "passengers")

    def __init__(self, key: Hashable, first: Passenger) -> None:
        self.key: Hashable = key
        self.passengers: dict[Passenger, None] = {first: None}
        self.deserted: bool = False


F = TypeVar("F", bound=Flight)


class Flights(Generic[F]):
    """The flights that are under way, one a key."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[Hashable, F] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def find(self, key: Hashable) -> F | None:
        """Return the flight of a key, if one is under way."""
        return self._under_way.get(key)

    def begin(self, flight: F) -> None:
        """Have it found by its key, which has none."""
        self._under_way[flight.key] = flight

    def join(self, flight: F, passenger: Passenger) -> None:
        """Wait for it too."""
        flight.passengers[passenger] = None

    def leave(self, flight: F, passenger: Passenger) -> bool:
        """Wait no more; return whether nobody does."""
        if passenger not in flight.passengers:
            return False
        del flight.passengers[passenger]
        if flight.passengers:
            return False
        flight.deserted = True
        del self._under_way[flight.key]
        return True

    def land(self, flight: F) -> list[Passenger]:
        """End it; return who is waiting for it."""
        passengers = list(flight.passengers)
        if passengers:
            flight.passengers.clear()
            del self._under_way[flight.key]
        return passengers

    def closes_circle(self, flight: F, around: Collection[Flight]) -> bool:
        """Whether a flight waits, itself or through others, for one of `around`.

        Then nobody who is inside of those may join it: none would ever land.
        """
        if not around:
            return False
        pending: list[Flight] = [flight]
        seen: set[Flight] = set()
        while pending:
            one = pending.pop()
            if one in around:
                return True
            if one in seen:
                continue
            seen.add(one)
            pending += (
                other
                for other in self._under_way.values()
                if any(one in passenger.around for passenger in other.passengers)
            )
        return False
