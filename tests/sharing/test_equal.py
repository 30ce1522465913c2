"""The script of a server and the rule in Python decide alike, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sharing.servers import Server, engine

from resilient._machines.allotment import Allotment, Claim, allot
from resilient._machines.quorum import FORCED, RESET, Assembly, Report, rule_on
from resilient._machines.shared_bucket import Answer, Ask, Bucket, Recall, answer
from resilient._machines.shared_value import NOTHING, ValueAsk, serve
from resilient.redis._transport import (
    BUCKET,
    CIRCUIT,
    SLOTS,
    VALUE,
    arguments,
    member_arguments,
    value_arguments,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["redis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a server that runs for this module."""
    with Server(engine(request.param)) as server, server.client() as client:
        client.script_load(BUCKET.text)
        client.script_load(CIRCUIT.text)
        client.script_load(SLOTS.text)
        client.script_load(VALUE.text)
        yield client


STEP = st.fixed_dictionaries(
    {
        "pause": st.sampled_from([0.0, 0.001, 0.1, 1.0 / 3.0, 7.0, 59.0, 200.0]),
        "jump": st.sampled_from([0.0] * 6 + [300.0, -300.0, 0.2]),
        "want": st.sampled_from([0.0, 1.0, 3.7, 10.0, 90.0]),
        "least": st.sampled_from([0.1, 1.0, 3.7]),
        "spent": st.sampled_from([0.0] * 4 + [1.0, 33.3, 120.0]),
        "span": st.sampled_from([0.0, 0.5, 20.0]),
        "excess": st.sampled_from([0.0, 0.3, 1.0]),
        "credit": st.sampled_from([0.0] * 3 + [1.5, 40.0]),
        "back": st.sampled_from([0.0, 0.05, 5.0]),
        "deposit": st.sampled_from([0.0] * 4 + [0.1]),
        "ceiling": st.sampled_from([float("inf")] * 5 + [0.0, 12.3]),
        "reset": st.sampled_from([0.0] * 6 + [1.0]),
        "orders": st.sampled_from([0.0] * 6 + [1.0]),
        "order": st.sampled_from(
            [(0.0,) * 4] * 2 + [(1.0, 5.0, 60.0, 1 / 3), (7.0,) * 4]
        ),
        "numbers": st.sampled_from([(10.0, 90.0)] * 4 + [(1 / 3, 90.0), (25.0, 10.1)]),
        "member": st.integers(0, 2),
        "remembers": st.booleans(),
        "fault": st.sampled_from(["none"] * 6 + ["lost", "copy", "restore"]),
    }
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEP, min_size=5, max_size=40))
def test_script_and_rule_decide_alike(client: Any, steps: list[dict[str, Any]]) -> None:
    """Time by argument; every number of the state and of the answer is the same."""
    client.delete("b", "copy")
    bucket: Bucket | None = None
    copied: Bucket | None = None
    own, offset = 5000.0, 1.7e9
    seen: dict[int, tuple[Answer, float]] = {}
    for step in steps:
        own += step["pause"]
        offset += step["jump"]
        now = own + offset
        if step["fault"] == "lost":
            bucket = None
            client.delete("b")
        elif step["fault"] == "copy":
            copied = bucket
            client.delete("copy")
            if bucket is not None:
                client.copy("b", "copy")
        elif step["fault"] == "restore":
            bucket = copied
            client.delete("b")
            if bucket is not None:
                client.copy("copy", "b")
        if bucket is not None and now >= bucket.expires:
            bucket = None
            client.delete("b")
        said = seen.get(step["member"]) if step["remembers"] else None
        rate, capacity = step["numbers"]
        ask = Ask(
            rate,
            capacity,
            max(step["want"], step["least"]) if step["want"] else 0.0,
            step["least"],
            step["spent"],
            step["span"],
            step["spent"] * step["excess"],
            step["credit"],
            now - step["back"],
            step["deposit"],
            step["ceiling"],
            step["reset"],
            step["orders"],
            *step["order"],
            recall=said
            and Recall(said[0].level, said[0].time, own - said[1], said[0].credited),
        )
        bucket, expected = answer(bucket, now, ask)
        raw = client.evalsha(BUCKET.sha, 1, "b", *arguments(ask), repr(now))
        assert list(expected) == [float(number) for number in raw]
        stored = client.hgetall("b")
        assert bucket._asdict() == {
            name.decode(): float(number) for name, number in stored.items()
        }
        life = client.pttl("b") / 1000
        assert 0 <= bucket.expires - now - life + 0.002 < 5
        seen[step["member"]] = expected, own


REPORT = st.fixed_dictionaries(
    {
        "pause": st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0 / 3.0, 7.0, 40.0]),
        "jump": st.sampled_from([0.0] * 8 + [300.0, -300.0]),
        "member": st.integers(0, 4),
        "behind": st.sampled_from([0.0] * 6 + [1.0, -1.0, 3.0]),
        "calls": st.sampled_from([0.0, 3.0, 10.0, 11.0]),
        "failing": st.sampled_from([0.0, 1.0, 1.0]),
        "slow": st.sampled_from([0.0, 0.0, 3.0]),
        "minimum": st.sampled_from([1.0, 20.0]),
        "rates": st.sampled_from([(0.5, 2.0), (1.0, 0.3), (1 / 3, 2.0)]),
        "probed": st.sampled_from([0.0, 0.0, 1.0, -1.0]),
        "right": st.sampled_from([0.0, 5.0, 5.0, 1000.0]),
        "order": st.sampled_from([0.0] * 8 + [RESET, FORCED]),
        "fault": st.sampled_from(["none"] * 8 + ["lost"]),
    }
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(REPORT, min_size=5, max_size=40))
def test_script_and_rule_judge_alike(client: Any, steps: list[dict[str, Any]]) -> None:
    """Of circuits: every number of the state and of the verdict is the same."""
    client.delete("c")
    known = Assembly()
    now = 1.7e9
    for step in steps:
        now += step["pause"] + step["jump"]
        if step["fault"] == "lost":
            known = Assembly()
            client.delete("c")
        rate, slow_rate = step["rates"]
        report = Report(
            f"member{step['member']}",
            max(0.0, known.term + step["behind"]),
            known.open,
            known.openings,
            2.5,
            calls=step["calls"],
            failures=step["calls"] * step["failing"],
            slow=min(step["calls"], step["slow"]),
            failing=step["failing"],
            minimum=step["minimum"],
            rate=rate,
            slow_rate=slow_rate,
            open_for=5.1,
            probed=step["probed"],
            right=step["right"],
            order=step["order"],
        )
        known, expected = rule_on(known, now, report)
        sent = [*member_arguments(report), repr(now)]
        raw = client.evalsha(CIRCUIT.sha, 1, "c", *sent)
        assert list(expected) == [float(number) for number in raw]
        stored = {name.decode(): value for name, value in client.hgetall("c").items()}
        rows = {
            name[2:]: tuple(map(float, stored.pop(name).split()))
            for name in list(stored)
            if name.startswith("m:")
        }
        assert rows == {name: tuple(row) for name, row in known.rows.items()}
        assert known.holder == stored.pop("holder").decode()
        state = known._asdict()
        del state["holder"], state["rows"]
        assert state == {name: float(number) for name, number in stored.items()}
        assert 71_000 < client.pttl("c") <= 86_472_000


CLAIM = st.fixed_dictionaries(
    {
        "pause": st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0 / 3.0, 2.5, 61.0]),
        "jump": st.sampled_from([0.0] * 8 + [300.0, -300.0, 0.2]),
        "member": st.integers(0, 4),
        "remembers": st.booleans(),
        "limit": st.sampled_from([20.0, 20.0, 20.0, 7.0]),
        "keeps": st.sampled_from([0.0, 0.0, 1.0, 5.0]),
        "needs": st.sampled_from([0.0, 1.0, 6.0, 30.0]),
        "spare": st.sampled_from([0.0, 1.0, 4.0]),
        "returns": st.sampled_from([0.0] * 5 + [1.0]),
        "fault": st.sampled_from(["none"] * 8 + ["lost"]),
    }
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(CLAIM, min_size=5, max_size=40))
def test_script_and_rule_allot_alike(client: Any, steps: list[dict[str, Any]]) -> None:
    """Slots: every number of the state and of the grant is the same."""
    client.delete("s")
    known = Allotment()
    own, offset = 5000.0, 1.7e9
    seen: dict[int, tuple[float, float, float]] = {}
    for step in steps:
        own += step["pause"]
        offset += step["jump"]
        now = own + offset
        if step["fault"] == "lost":
            known = Allotment()
            client.delete("s")
        said = seen.get(step["member"]) if step["remembers"] else None
        seq, time, at = said or (0.0, 0.0, own + 1.0)
        needs = max(step["needs"], step["keeps"])
        claim = Claim(
            f"member{step['member']}",
            seq,
            time,
            own - at,
            step["limit"],
            step["keeps"],
            needs,
            needs + step["spare"],
            2.0,
            step["returns"],
        )
        known, expected = allot(known, now, claim)
        sent = [*member_arguments(claim), repr(now)]
        raw = client.evalsha(SLOTS.sha, 1, "s", *sent)
        assert list(expected) == [float(number) for number in raw]
        stored = {name.decode(): value for name, value in client.hgetall("s").items()}
        shares = {
            name[2:]: tuple(map(float, stored.pop(name).split()))
            for name in list(stored)
            if name.startswith("m:")
        }
        assert shares == {name: tuple(one) for name, one in known.shares.items()}
        state = known._asdict()
        del state["shares"]
        assert state == {name: float(number) for name, number in stored.items()}
        assert 86_000 < client.ttl("s") <= 86_400
        seen[step["member"]] = expected.seq, expected.time, own


VALUE_STEP = st.fixed_dictionaries(
    {
        "pause": st.sampled_from([0.0, 0.1, 1.0 / 3.0, 1.0, 7.0, 40.0]),
        "jump": st.sampled_from([0.0] * 8 + [300.0, -300.0]),
        "verb": st.sampled_from(["look"] * 4 + ["keep", "keep", "drop", "free"]),
        "caller": st.sampled_from(["a", "b", "c"]),
        "fresh": st.sampled_from([0.0, 1.0, 30.0, 1e300]),
        "right": st.sampled_from([5.0, 5.0, 0.0, 1.0 / 3.0]),
        "made": st.sampled_from([0.0, 0.0, 0.25, 20.0, -1.0]),
        "life": st.sampled_from([0.0, 10.0, 100.0, 2592000.0]),
        "content": st.binary(max_size=3),
        "fault": st.sampled_from(["none"] * 8 + ["lost"]),
    }
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(VALUE_STEP, min_size=5, max_size=40))
def test_script_and_rule_keep_the_same_value(
    client: Any, steps: list[dict[str, Any]]
) -> None:
    """Contents, ages and who has the right to make it anew."""
    client.delete("v")
    value, now = NOTHING, 1.7e9 + 1.0 / 3.0
    for step in steps:
        now += step["pause"] + step["jump"]
        if step["fault"] == "lost":
            client.delete("v")
            value = NOTHING
        ask = ValueAsk(
            step["verb"],
            step["caller"],
            step["fresh"],
            step["right"],
            now - step["made"],
            step["life"],
            step["content"],
        )
        value, expected = serve(value, now, ask)
        content, *numbers = client.evalsha(
            VALUE.sha, 1, "v", *value_arguments(ask), repr(now)
        )
        assert list(expected[1:]) == [float(number) for number in numbers]
        assert content == (expected.content or b"")
        expires = value.expires
        # NB: the server's own clock may have ended the key.
        stored = client.hgetall("v")
        kept = {} if value.content is None else value._asdict()
        kept.pop("holder", None), kept.pop("held", None)
        if value.holder:
            kept |= {"holder": value.holder, "held": value.held}
        assert kept == {
            name.decode(): text_or_number(name, one) for name, one in stored.items()
        }
        if stored:
            assert client.pttl("v") > 0
            assert expires > now


def text_or_number(name: bytes, stored: bytes) -> Any:
    """Return what a field of a value is."""
    if name == b"content":
        return stored
    return stored.decode() if name == b"holder" else float(stored)
