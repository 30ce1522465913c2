"""Records: values, whose methods are written once."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import pytest

from resilient import CircuitChanged, Event, Limit, PermitWaited, TimedOut
from resilient._events.events import located
from resilient._values.records import Record


class Point(Record):
    """A record of two fields."""

    __slots__ = ("x", "y")

    x: float
    y: float


class Named(Point):
    """One field more, in no slot."""

    name: str


class Loose(Record):
    """Fields in no slots at all."""

    x: float


def test_fields_come_by_place_or_by_name() -> None:
    """In the order in which they are annotated, those of the base first."""
    assert ("x", "y", "name") == Named.fields()
    point = Named(1.0, 2.0, "a")
    assert (1.0, 2.0, "a") == (point.x, point.y, point.name)
    assert point == Named(1.0, name="a", y=2.0)


@pytest.mark.parametrize(
    ("values", "named", "given"),
    [
        ((1,), {}, "1 by place, and by name: none"),
        ((1, 2, 3), {}, "3 by place, and by name: none"),
        ((1, 2), {"y": 2}, "2 by place, and by name: y"),
        ((1,), {"y": 2, "z": 3}, "1 by place, and by name: y, z"),
    ],
)
def test_every_field_is_given_once(
    values: tuple[Any, ...], named: dict[str, Any], given: str
) -> None:
    """The error names fields, and shows no value."""
    with pytest.raises(TypeError) as caught:
        Point(*values, **named)

    assert f"Point takes x, y; got {given}" == str(caught.value)


def test_a_record_reads_like_the_call_that_makes_it() -> None:
    """Every field by name."""
    assert "Named(x=1.0, y=2.0, name='a')" == repr(Named(1.0, 2.0, "a"))


def test_records_are_equal_where_type_and_fields_are() -> None:
    """And hash alike then."""
    assert Point(1.0, 2.0) == Point(1, 2)
    assert hash(Point(1.0, 2.0)) == hash(Point(1, 2))
    assert Point(1.0, 2.0) != Point(1.0, 3.0)
    assert Point(1.0, 2.0) != Named(1.0, 2.0, "a")
    assert Point(1.0, 2.0) != (1.0, 2.0)


def test_a_record_never_changes() -> None:
    """So it may be passed on without a copy."""
    point: Any = Point(1.0, 2.0)
    with pytest.raises(AttributeError) as caught:
        point.x = 3.0
    assert "`x` cannot be set: a Point never changes" == str(caught.value)
    with pytest.raises(AttributeError) as caught:
        del point.x
    assert "`x` cannot be deleted: a Point never changes" == str(caught.value)
    assert Point(1.0, 2.0) == point


@pytest.mark.parametrize(
    "record", [Point(1.0, 2.0), Named(1.0, 2.0, "a"), Loose(1.0), Limit(5, per=60)]
)
def test_copies_and_pickles_are_equal(record: Record) -> None:
    """Wherever their fields are kept."""
    assert record == copy.copy(record)
    assert record == copy.deepcopy(record)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert record == pickle.loads(pickle.dumps(record, protocol))


def test_a_record_matches_by_place() -> None:
    """As in ``case Point(x, y)``."""
    match Point(1.0, 2.0):
        case Point(x, y):
            assert (1.0, 2.0) == (x, y)


def test_an_event_keeps_where_it_happened_wherever_it_goes() -> None:
    """That is no argument, and no part of what it is."""
    event = PermitWaited("api", "get", 1.0)
    assert (None, None) == (event.pipeline, event.metric_name)
    located(event, "checkout", "api")

    other: PermitWaited = pickle.loads(pickle.dumps(event))
    assert ("checkout", "api") == (other.pipeline, other.metric_name)
    assert PermitWaited("api", "get", 1.0) == event
    text = "PermitWaited(policy='api', call='get', pipeline='checkout', waited=1.0)"
    assert text == repr(event)


@pytest.mark.parametrize("kind", [CircuitChanged, PermitWaited, TimedOut])
def test_an_event_tells_first_whose_it_is(kind: type[Event]) -> None:
    """Then what happened."""
    assert ("policy", "call", "pipeline") == kind.fields()[:3]
    assert kind.fields()[3:] == kind.__match_args__[2:]


class Solid(Point):
    """A record that narrows a field of its base, and has something of its class."""

    __slots__ = ()

    dimensions: ClassVar[int] = 2
    x: int


def test_a_field_is_one_however_often_it_is_annotated() -> None:
    """And what belongs to the class is none."""
    assert ("x", "y") == Solid.fields()
    assert Solid(1, 2.0) == Solid(x=1, y=2.0)


def test_a_record_is_replaced_field_by_field() -> None:
    """As `copy.replace` does, from Python 3.13 on."""
    assert Point(3.0, 2.0) == Point(1.0, 2.0).__replace__(x=3.0)
