"""Scenario files, and copies of policies with other numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.simulation import (
    Dependency,
    Failing,
    Hang,
    Scenario,
    Surge,
    constant_time,
    lognormal_time,
    normal_time,
    pareto_time,
    quantile_time,
    scenarios,
    simulate,
    sweep,
    uniform_time,
)
from resilient.simulation._change import changed
from resilient.simulation._files import names, parse, read, text_of

WHOLE = """
version = 1
duration = 60
[load]
arrivals = "constant"
rate = 5
clients = 2
patience = 10
keys = 7
[dependency]
servers = 3
service = { lognormal = { median = 0.05, p99 = 0.4 } }
queue = "lifo"
queue_limit = 4
abandoned = "dropped"
failures = 0.01
error = "json.JSONDecodeError"
[[events]]
kind = "load"
from = 10
to = 20
factor = 3
[[events]]
kind = "fail"
from = 20
to = 30
share = 0.5
[[events]]
kind = "hang"
from = 30
to = 40
[checks]
recovers_within = 30
"""


def test_a_file_is_what_its_keys_say(tmp_path: Path) -> None:
    """Those of `Scenario` and `Dependency`; the name is the file's."""
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE, "utf-8")
    found = read(str(path))

    import json

    assert found.checks == {"recovers_within": 30}
    assert found.scenario == Scenario(
        "whole",
        rate=5,
        duration=60,
        clients=2,
        arrivals="constant",
        patience=10,
        keys=7,
        dependency=Dependency(
            servers=3,
            service=lognormal_time(0.05, 0.4),
            queue="lifo",
            queue_limit=4,
            abandoned="dropped",
            failures=0.01,
            error=json.JSONDecodeError,  # type: ignore[arg-type]  # of three arguments
        ),
        events=[Surge(10, 20, 3), Failing(20, 30, 0.5), Hang(30, 40)],
    )


def test_a_file_may_have_users_and_nodes() -> None:
    """And percentiles, as pairs, for a table of TOML has no numbers as keys."""
    found = parse(
        """
        version = 1
        [load]
        users = 5
        think = { normal = { mean = 2, deviation = 0.5 } }
        calls = 3
        [dependency]
        nodes = 3
        service = { quantiles = [[0.5, 0.02], [0.99, 0.1]] }
        network = { constant = 0.01 }
        crowding = 0.001
        backlog = 0.5
        quota = 100
        refusing = 0.001
        conflicts = true
        depth = 2
        """,
        "users.toml",
    )

    assert found.scenario == Scenario(
        "users",
        users=5,
        think=normal_time(2, 0.5),
        calls=3,
        dependency=Dependency(
            nodes=3,
            service=quantile_time({0.5: 0.02, 0.99: 0.1}),
            network=constant_time(0.01),
            crowding=0.001,
            backlog=0.5,
            quota=100,
            refusing=0.001,
            conflicts=True,
            depth=2,
        ),
    )


def test_a_file_may_leave_out_nearly_all() -> None:
    """What it does not say is as in `Scenario`."""
    found = parse('version = 1\nname = "calm"', "x.toml")

    assert Scenario("calm") == found.scenario
    assert {} == found.checks


@pytest.mark.parametrize(
    ("service", "time"),
    [
        ("constant = 1", constant_time(1)),
        ("uniform = { low = 1, high = 2 }", uniform_time(1, 2)),
        ("pareto = { minimum = 1, shape = 2 }", pareto_time(1, 2)),
    ],
)
def test_distributions_are_spelt_as_they_are_called(service: str, time: Any) -> None:
    """A number, or a table."""
    found = parse(f"version = 1\n[dependency]\nservice = {{ {service} }}", "x.toml")

    assert time == found.scenario.dependency.service


def test_every_built_in_scenario_is_a_file() -> None:
    """With a comment that says what it is."""
    assert names() == [scenario.name for scenario in scenarios()]
    for name in names():
        assert text_of(name).startswith("# ")


def test_a_scenario_may_be_named_by_its_file(tmp_path: Path) -> None:
    """Or by the name of one that is built in."""
    path = tmp_path / "short.toml"
    path.write_text("version = 1\nduration = 10\n[load]\nrate = 5", "utf-8")

    assert "short" == simulate(Timeout(1), str(path), seeds=1).scenario.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = ", "Invalid value"),
        ("duration = 60", "`version` must be 1, got None"),
        ("version = 1\ndurations = 60", "`durations` is not known: did you mean 'dur"),
        ("version = 1\nxyz = 60", "`xyz` is not known: there are version, name, dur"),
        ("version = 1\nload = 3", "`load` must be a table, as [load] is, got 3"),
        (
            "version = 1\n[load]\nrat = 3",
            "`load.rat` is not known: did you mean 'rate'",
        ),
        ("version = 1\n[load]\nrate = 0", "`rate` must be > 0, got 0"),
        ("version = 1\nevents = 3", "`events` must be tables, as [[events]] is, got 3"),
        ("version = 1\nevents = [3]", "`events` must be tables, as [[events]] is, got"),
        (
            'version = 1\n[[events]]\nkind = "holds"',
            "`events.kind` must be one of hold, refuse, shard, hang, fail, slow,"
            " capacity, load, got 'holds': did you mean 'hold'?",
        ),
        (
            'version = 1\n[[events]]\nkind = "hold"\nfrom = 3',
            "`events.to` is missing for 'hold'",
        ),
        (
            'version = 1\n[[events]]\nkind = "slow"\nfrom = 3\nto = 4',
            "`events.factor` is missing for 'slow'",
        ),
        (
            'version = 1\n[[events]]\nkind = "hold"\nfrom = 3\nto = 4\nfactor = 2',
            "`events.factor` has no meaning for 'hold'",
        ),
        (
            "version = 1\n[dependency]\nservice = 3",
            "`dependency.service` must be a distribution, as { exponential = 0.1 } is",
        ),
        (
            "version = 1\n[dependency]\nservice = { exponentail = 3 }",
            "`dependency.service.exponentail` is not known: did you mean 'expon",
        ),
        (
            "version = 1\n[dependency]\nservice = { uniform = 3 }",
            "`dependency.service.uniform` must be a table of low and high, got 3",
        ),
        (
            'version = 1\n[dependency]\nerror = "httpx.NoSuchError"',
            "`dependency.error` must name an exception, as httpx.ConnectError does",
        ),
        (
            'version = 1\n[dependency]\nerror = "int"',
            "`dependency.error` must name an exception, as httpx.ConnectError does",
        ),
        (
            "version = 1\n[dependency]\nservice = { quantiles = 3 }",
            "`dependency.service.quantiles` must be pairs of share and seconds, as"
            " [[0.5, 0.02], [0.99, 0.1]] are, got 3",
        ),
        (
            "version = 1\n[load]\nusers = 1\nthink = 3",
            "`load.think` must be a distribution, as { exponential = 0.1 } is, got 3",
        ),
    ],
)
def test_a_wrong_key_or_value_is_refused(text: str, said: str) -> None:
    """With the file, the key, the rule and the value."""
    with pytest.raises(ValueError, match=r"^shop\.toml: ") as caught:
        parse(text, "shop.toml")

    assert said in str(caught.value)


# -- Copies with other numbers

POLICY = Pipeline(
    Timeout(10, name="whole"),
    Pipeline(Retry(OSError), CircuitBreaker()),
    Bulkhead(5),
    Timeout(1),
    name="shop",
)


def test_numbers_are_changed_by_kind_name_or_place() -> None:
    """Those of one policy; all else stays."""
    changes = {
        "whole.seconds": 20,
        "retry.attempts": 2,
        "retry.budget": None,
        "circuit_breaker.window": 5.0,
        "timeout[2].seconds": 0.5,
    }

    assert repr(changed(POLICY, changes)) == (
        "Pipeline(Timeout(20.0, name='whole'), Pipeline(Retry(OSError, attempts=2,"
        " budget=None), CircuitBreaker(window=5.0)), Bulkhead(5), Timeout(0.5),"
        " name='shop')"
    )
    assert "Timeout(2.0)" == repr(changed(Timeout(1), {"timeout.seconds": 2}))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("retries.attempts", "no policy is 'retries': did you mean 'retry'?"),
        ("xyz.attempts", "no policy is 'xyz': there are timeout[1], whole, retry"),
        ("timeout.seconds", "there are timeout[1], timeout[2]"),
        ("retry.attempt", "no parameter is 'attempt': did you mean 'attempts'?"),
    ],
)
def test_what_is_not_there_cannot_be_changed(key: str, said: str) -> None:
    """The text says what is."""
    with pytest.raises(ValueError, match=r"^`") as caught:
        changed(POLICY, {key: 3})

    assert said in str(caught.value)


def test_a_sweep_tries_every_combination() -> None:
    """Each under the name of its changes."""
    scenario = Scenario("short", rate=5, duration=10)
    policy = Pipeline(Retry(OSError), Timeout(1))
    found = sweep(
        policy, scenario, {"retry.attempts": [1, 2], "timeout.seconds": [1]}, seeds=1
    )

    assert [
        "retry.attempts=1, timeout.seconds=1",
        "retry.attempts=2, timeout.seconds=1",
    ] == list(found)
