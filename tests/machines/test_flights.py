"""Flights: who waits for which execution."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resilient._machines.single_flight import Flight, Flights, Passenger


def begun(flights: Flights[Flight], key: str, *around: Flight) -> Flight:
    """Begin a flight, with a passenger who is inside of others."""
    flight = Flight(key, Passenger(around))
    flights.begin(flight)
    return flight


def test_a_flight_is_found_by_its_key_until_it_lands() -> None:
    """Then the key is free."""
    flights: Flights[Flight] = Flights()
    flight = begun(flights, "a")
    assert flight is flights.find("a")
    assert None is flights.find("b")
    assert list(flight.passengers) == flights.land(flight)
    assert None is flights.find("a")
    assert 0 == len(flights)


def test_passengers_arrive_in_the_order_they_came() -> None:
    """Whoever began it is the first."""
    flights: Flights[Flight] = Flights()
    flight = begun(flights, "a")
    joined = [Passenger(), Passenger()]
    for passenger in joined:
        flights.join(flight, passenger)
    assert joined == flights.land(flight)[1:]


def test_the_last_to_leave_ends_it() -> None:
    """Not the first, who may be the one that began it."""
    flights: Flights[Flight] = Flights()
    flight = begun(flights, "a")
    [first] = flight.passengers
    second = Passenger()
    flights.join(flight, second)
    assert not flights.leave(flight, first)
    assert flight is flights.find("a")
    assert flights.leave(flight, second)
    assert flight.deserted
    assert None is flights.find("a")


def test_a_flight_ends_once() -> None:
    """What comes second changes nothing, not even a successor's."""
    flights: Flights[Flight] = Flights()
    flight = begun(flights, "a")
    [first] = flight.passengers
    assert flights.leave(flight, first)
    successor = begun(flights, "a")
    assert not flights.leave(flight, first)
    assert [] == flights.land(flight)
    assert successor is flights.find("a")
    flights.land(successor)
    assert [] == flights.land(successor)
    [passenger] = Flight("b", first).passengers
    assert not flights.leave(successor, passenger)
    assert not successor.deserted


def test_who_is_inside_nothing_closes_no_circle() -> None:
    """The ordinary case."""
    flights: Flights[Flight] = Flights()
    assert not flights.closes_circle(begun(flights, "a"), ())


def test_a_flight_does_not_wait_for_itself() -> None:
    """Whoever is inside may not join it."""
    flights: Flights[Flight] = Flights()
    flight = begun(flights, "a")
    assert flights.closes_circle(flight, (flight,))
    assert not flights.closes_circle(begun(flights, "b"), (flight,))


def test_flights_do_not_wait_for_each_other() -> None:
    """However many there are in between."""
    flights: Flights[Flight] = Flights()
    a = begun(flights, "a")
    b = begun(flights, "b", a)
    c = begun(flights, "c", b)
    assert flights.closes_circle(a, (c,))
    assert not flights.closes_circle(c, (a,))
    # Those who leave wait no more.
    [passenger] = b.passengers
    flights.join(b, Passenger())
    flights.leave(b, passenger)
    assert not flights.closes_circle(a, (c,))


def test_a_circle_of_others_is_walked_once() -> None:
    """It cannot come about, and would be no reason to hang."""
    flights: Flights[Flight] = Flights()
    a = begun(flights, "a")
    b = begun(flights, "b", a)
    flights.join(a, Passenger((b,)))
    assert not flights.closes_circle(a, (begun(flights, "c"),))


class NaiveFlights(RuleBasedStateMachine):
    """Flights against a list of who waits for what."""

    flights_seen = Bundle("flights")

    def __init__(self) -> None:
        super().__init__()
        self.flights: Flights[Flight] = Flights()
        self.waiting: dict[Flight, list[Passenger]] = {}

    @rule(target=flights_seen, key=st.sampled_from("abc"))
    def arrive(self, key: str) -> Flight:
        passenger = Passenger()
        flight = self.flights.find(key)
        if flight is None:
            flight = Flight(key, passenger)
            self.flights.begin(flight)
            self.waiting[flight] = [passenger]
        else:
            self.flights.join(flight, passenger)
            self.waiting[flight].append(passenger)
        return flight

    @rule(flight=flights_seen, place=st.integers(0, 3))
    def leave(self, flight: Flight, place: int) -> None:
        waiting = self.waiting[flight]
        if place < len(waiting):
            gone = waiting.pop(place)
            assert (not waiting) == self.flights.leave(flight, gone)
            assert not self.flights.leave(flight, gone)

    @rule(flight=flights_seen)
    def land(self, flight: Flight) -> None:
        assert self.waiting[flight] == self.flights.land(flight)
        self.waiting[flight] = []

    @invariant()
    def only_flights_that_are_waited_for_are_under_way(self) -> None:
        under_way = {one.key: one for one, who in self.waiting.items() if who}
        assert len(under_way) == len(self.flights)
        for key in "abc":
            assert under_way.get(key) is self.flights.find(key)


TestNaiveFlights = NaiveFlights.TestCase
