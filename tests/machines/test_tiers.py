"""Tiers, zones and affinity: who gets the next call, by hand-fed numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import pytest

from resilient import Eject
from resilient._machines.fleet import Fleet, Listed, Load, Ticket
from resilient._machines.rendezvous import Affinities, some_of, spot_of

NEVER = Eject(None)


def fleet_of(
    *listed: Listed,
    load: Load = "latency",
    eject: Eject = Eject(),  # noqa: B008 - it is immutable
    zone_bias: float = 4.0,
    affine: bool = False,
) -> Fleet:
    """Return a set of these endpoints."""
    fleet = Fleet(load, eject, zone_bias, affine=affine)
    fleet.replace(listed, 0.0)
    return fleet


def tier(number: int, *addresses: str) -> list[Listed]:
    """Return endpoints of a tier."""
    return [Listed(each, each, tier=number) for each in addresses]


def fail(fleet: Fleet, address: str, now: float = 0.0, times: int = 5) -> None:
    """Have an endpoint fail so often in a row."""
    for _ in range(times):
        member = fleet.members[address]
        fleet.fail(member, member.era, now, 0.001)


def asked(
    fleet: Fleet, times: int, now: float = 0.0, avoid: Iterable[str] = ()
) -> Counter[str]:
    """Return how often each endpoint is chosen, one call at a time."""
    draw, found = Random(1).random, Counter[str]()
    tried = [fleet.members[each] for each in avoid]
    for _ in range(times):
        member = fleet.choose(now, draw, tried)
        assert member is not None
        found[member.address] += 1
        fleet.leave(member)
    return found


def drawing(*numbers: float) -> Callable[[], float]:
    """Return a source of exactly these numbers."""
    return iter(numbers).__next__


# -- Tiers


def three_and_two() -> Fleet:
    """A tier of three, and one of two behind it."""
    return fleet_of(*tier(0, "A", "B", "C"), *tier(1, "X", "Y"))


def test_the_first_tier_gets_all_calls() -> None:
    """While all of it take part."""
    assert {"A", "B", "C"} == set(asked(three_and_two(), 300))


@pytest.mark.parametrize(
    ("failing", "share"), [("A", 0.0667), ("AB", 0.533), ("ABC", 1.0)]
)
def test_the_next_tier_gets_what_the_first_cannot_take(
    failing: str, share: float
) -> None:
    """One that takes part carries 1.4 times its share."""
    fleet = three_and_two()
    for address in failing:
        fail(fleet, address)
    found = asked(fleet, 10_000, 1.0)
    assert share == pytest.approx((found["X"] + found["Y"]) / 10_000, abs=0.015)
    assert not set(failing) & set(found)


def test_ejections_of_the_last_tier_count_within_it() -> None:
    """None of two is ejected, however many of the first tier are."""
    fleet = three_and_two()
    for address in "ABCXY":
        fail(fleet, address)
    assert [False, False] == [fleet.members[each].is_out for each in "XY"]
    assert {"X", "Y"} == set(asked(fleet, 300, 1.0))


def test_a_standby_takes_over_and_one_probe_ends_it() -> None:
    """Of a tier of one, that one is ejected: there is another tier."""
    fleet = fleet_of(*tier(0, "primary"), *tier(1, "standby"))
    fail(fleet, "primary")
    assert {"standby": 10} == asked(fleet, 10, 4.0)
    probe = fleet.choose(6.0, drawing())
    assert probe is fleet.members["primary"]
    assert {"standby": 10} == asked(fleet, 10, 6.0)
    fleet.succeed(probe, probe.era, 6.1, 0.02)
    assert {"primary": 10} == asked(fleet, 10, 6.2)


def test_without_the_standby_the_only_one_is_back() -> None:
    """The limit is that of a tier without another behind it."""
    fleet = fleet_of(*tier(0, "primary"), *tier(1, "standby"))
    fail(fleet, "primary")
    fleet.replace(tier(0, "primary"), 1.0)
    assert {"primary": 10} == asked(fleet, 10, 1.0)


def test_where_none_takes_part_all_of_the_first_tier_do() -> None:
    """All rest: they are asked all the same, but for who goes on."""
    fleet = three_and_two()
    for member in fleet.members.values():
        fleet.push_back(member, member.era, 0.0, 0.01, 30.0)
    assert {"A", "B", "C"} == set(asked(fleet, 300, 1.0))
    assert fleet.choose(1.0, drawing(), (), [fleet.members["A"]]) is None


def test_a_retry_goes_to_the_next_tier_where_the_first_is_tried() -> None:
    """And where all were tried, to the first again."""
    fleet = fleet_of(*tier(0, "A"), *tier(1, "B"))
    assert {"B": 10} == asked(fleet, 10, avoid=["A"])
    assert {"A": 10} == asked(fleet, 10, avoid=["A", "B"])


def test_each_tier_has_turns_of_its_own() -> None:
    """Exact ones, also after it had none for a while."""
    fleet = fleet_of(
        *tier(0, "A", "B"), *tier(1, "X", "Y"), load="round_robin", eject=Eject(1)
    )
    assert {"A": 50, "B": 50} == asked(fleet, 100)
    fail(fleet, "A", times=1)
    fail(fleet, "B", times=1)
    assert {"X": 5, "Y": 5} == asked(fleet, 10, 1.0)
    fleet.reset(2.0)
    assert {"A": 50, "B": 50} == asked(fleet, 100, 2.0)
    fleet.replace([*tier(0, "A", "B", "C"), *tier(1, "X", "Y")], 2.0)
    assert {"A": 10, "B": 10, "C": 10} == asked(fleet, 30, 2.0)


def test_a_failing_tier_is_searched_and_drawn_from_by_weight() -> None:
    """As a set without tiers is."""
    heavy = [Listed("A", "A", 1.0), Listed("B", "B", 3.0), Listed("C", "C", 3.0)]
    fleet = fleet_of(*heavy, *tier(1, "X"), load="random", eject=NEVER)
    found = asked(fleet, 7000)
    assert found["A"] == pytest.approx(1000, rel=0.1)
    fleet = fleet_of(*heavy, *tier(1, "X"), eject=NEVER)
    fail(fleet, "A", 0.0)
    fail(fleet, "B", 0.0)
    # A and B are drawn, and C then.
    assert "C" == fleet.choose(0.0, drawing(0.0, 0.0, 0.9)).address  # type: ignore[union-attr] # there is one


# -- Zones


def two_zones(load: Load = "latency") -> Fleet:
    """Two endpoints nearby, and one elsewhere."""
    near = [Listed("A", "A"), Listed("B", "B")]
    return fleet_of(*near, Listed("far", "far", near=False), load=load)


def test_a_zone_keeps_its_calls_until_it_is_busy() -> None:
    """Up to four times the load of the best elsewhere."""
    fleet = two_zones()
    assert {"A", "B"} == set(asked(fleet, 100))
    for address in "AB":
        fleet.members[address].in_flight = 3
    assert "far" not in asked(fleet, 100)
    for address in "AB":
        fleet.members[address].in_flight = 4
    assert {"far": 100} == asked(fleet, 100)


@pytest.mark.parametrize("load", ["round_robin", "random"])
def test_loads_that_do_not_compare_stay_in_the_zone(load: Load) -> None:
    """While any of it takes part."""
    fleet = two_zones(load)
    assert {"A", "B"} == set(asked(fleet, 100))
    for address in "AB":
        fleet.drain(address, 0.0, draining=True)
    assert {"far": 10} == asked(fleet, 10)


# -- Affinity


def affine(addresses: str) -> list[Listed]:
    """Return endpoints with their spots."""
    return [Listed(each, each, spot=spot_of(each)) for each in addresses]


def home(fleet: Fleet, key: int, avoid: Iterable[str] = ()) -> str:
    """Return where a call of a key goes, which ends at once."""
    ticket = Ticket()
    ticket.key = spot_of(key)
    tried = [fleet.members[each] for each in avoid]
    member = fleet.choose(0.0, drawing(), tried, (), ticket)
    assert member is not None
    ticket.leave()
    return str(member.address)


def homes(addresses: str) -> list[str]:
    """Return where the calls of a thousand keys go."""
    fleet = fleet_of(*affine(addresses), affine=True)
    return [home(fleet, key) for key in range(1000)]


def test_keys_are_spread_and_move_no_further_than_they_must() -> None:
    """Of one that leaves, only its own go elsewhere."""
    before, after = homes("ABCDE"), homes("ABDE")
    assert all(150 <= before.count(each) <= 250 for each in "ABCDE")
    pairs = zip(before, after, strict=True)
    assert all(old == new or old == "C" for old, new in pairs)
    lost = [new for old, new in zip(before, after, strict=True) if old == "C"]
    assert {"A", "B", "D", "E"} == set(lost)


def test_keys_are_spread_by_weight() -> None:
    """Three times the weight is three times the keys."""
    light, heavy = affine("AB")
    fleet = fleet_of(light, heavy._replace(weight=3.0), affine=True)
    found = Counter(home(fleet, key) for key in range(4000))
    assert found["B"] == pytest.approx(3000, rel=0.05)


def test_a_busy_endpoint_passes_calls_on() -> None:
    """Above 1.25 times its share; and so does one that was tried."""
    fleet = fleet_of(*affine("ABC"), affine=True)
    first = home(fleet, 7)
    second = home(fleet, 7, [first])
    third = home(fleet, 7, [first, second])
    assert {"A", "B", "C"} == {first, second, third}
    for member in fleet.members.values():
        member.in_flight = 8
    assert first == home(fleet, 7)
    # 25 calls, of which it may have ceil(1.25 * 25 / 3).
    fleet.members[first].in_flight = 10
    assert first == home(fleet, 7)
    fleet.members[first].in_flight = 13
    assert second == home(fleet, 7)
    assert first == home(fleet, 7, [first, second, third][1:])


def test_without_a_key_it_is_as_without_affinity() -> None:
    """A call that has none is drawn."""
    fleet = fleet_of(*affine("ABC"), affine=True)
    assert {"A", "B", "C"} == set(asked(fleet, 100))
    fleet.replace([], 0.0)
    assert fleet.choose(0.0, drawing()) is None


def test_texts_and_numbers_hash_alike_in_each_process() -> None:
    """Known values; other objects have the hash that they have."""
    assert 17576062419143199480 == spot_of(("tenant", 7))
    assert spot_of("a") != spot_of(b"a") != spot_of(97)
    kind = frozenset([1])
    assert hash(kind) % 2**64 == spot_of(kind)
    with pytest.raises(TypeError, match="hashable, got an object of <class 'list'>"):
        spot_of([])  # type: ignore[arg-type] # it is what is refused


def test_what_is_kept_of_keys_changes_no_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many there are, and however busy the first members are."""
    monkeypatch.setattr("resilient._machines.rendezvous._MOST_KEYS", 5)
    for weights in ([1] * 6, [1, 2, 3, 1, 2, 3]):
        listed = [
            Listed(each, each, weight, spot=spot_of(each))
            for each, weight in zip("abcdef", weights, strict=True)
        ]
        fleet = fleet_of(*listed, affine=True)
        members = list(fleet.members.values())
        kept = Affinities(members)
        for load in (0, 1, 9):
            for key in map(spot_of, [*range(12), *range(12)]):
                order = Affinities(members)
                first = order.choose(key)
                assert first is kept.choose(key)
                first.in_flight += load
        for member in members:
            member.in_flight = 0
        key = spot_of("busy")
        found: list[str] = []
        for _ in range(4):
            member = kept.choose(key)
            found.append(member.address)
            member.in_flight = 1000
        assert 4 == len(set(found))


def test_some_of_many_change_one_by_one() -> None:
    """Who leaves is replaced by one other, who joins takes the place of one."""
    names = [f"e{n}" for n in range(300)]
    chosen = some_of(names, 20, 7, spot_of)
    assert 20 == len(set(chosen))
    assert sorted(chosen, key=names.index) == chosen
    assert chosen != some_of(names, 20, 8, spot_of)
    without = some_of([each for each in names if each != chosen[3]], 20, 7, spot_of)
    assert {chosen[3]} == set(chosen) - set(without)
    more = some_of([*names, *[f"new {n}" for n in range(30)]], 20, 7, spot_of)
    assert len(set(more) - set(chosen)) == len(set(chosen) - set(more)) <= 6
    assert names[:5] == some_of(names[:5], 20, 7, spot_of)


def test_many_that_choose_some_share_all_evenly() -> None:
    """300 clients, 20 of 300 each: one that joins or leaves changes one of each."""
    spots = {f"e{n}": spot_of(f"e{n}") for n in range(301)}
    names = list(spots)
    keys = [spot_of(number) for number in range(300)]

    def subsets(of: list[str]) -> list[set[str]]:
        return [set(some_of(of, 20, key, spots.__getitem__)) for key in keys]

    before, joined, left = subsets(names[:300]), subsets(names), subsets(names[1:300])
    for now in (joined, left):
        changes = [len(a - b) for a, b in zip(before, now, strict=True)]
        assert 1 == max(changes)
    connections = Counter(each for chosen in before for each in chosen)
    assert 300 == len(connections)
    variance = sum((count - 20) ** 2 for count in connections.values()) / 300
    assert variance**0.5 <= 1.2 * 20**0.5
