"""The simulations, each once and short; `nox -s simulations` runs them whole."""

from __future__ import annotations

import itertools
import re
import subprocess
from contextlib import suppress
from statistics import mean
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from benchmarks.simulations import (
    _heap,
    _walk,
    balancing,
    hedge_storm,
    jitter,
    retry_storm,
    tail,
    throttling,
)
from benchmarks.simulations.__main__ import PAGE, SIMULATIONS, page_with
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Job,
    Report,
    Simulation,
    after,
    at_least,
    at_most,
    between,
    within,
)

from resilient import Outcome, Pipeline, Policy
from resilient._runtimes.simulated import World
from resilient.simulation._change import changed
from resilient.simulation._edge import Sent
from resilient.simulation._record import recovery
from resilient.simulation._result import markdown
from resilient.testing import VirtualClock

SEED = 1

# -- The systems, small


def test_full_jitter_does_less_than_half_the_work() -> None:
    """Contenders that wait for random times write as often as was published."""
    plain = jitter.run("exponential, no jitter", SEED)
    full = jitter.run("full jitter", SEED)

    assert jitter.CLIENTS == len(plain.done) == len(full.done)
    assert 1700 <= plain.writes <= 2050
    assert 760 <= full.writes <= 830
    assert plain.done[-1] >= 10 * full.done[-1]


def storm(client: str) -> tuple[int | None, list[retry_storm.Second]]:
    """After how many seconds it ends, and its last ones."""
    seconds = retry_storm.run(client, SEED, outage=(10, 20), until=45)
    return retry_storm.recovered(seconds, 20), seconds[-10:]


def test_one_retry_keeps_a_storm_alive() -> None:
    """Without a budget the server is asked twice for all, and answers nothing."""
    well, last = storm(retry_storm.AT_ONCE)

    assert well is None
    assert 0.01 > retry_storm.goodput(last)
    assert 530 <= mean(second.attempts for second in last) <= 590


def test_successes_do_not_pay_for_a_storm() -> None:
    """With the default's budget hardly any more is asked than without retries."""
    _, last = storm(retry_storm.OF_SUCCESSES)

    assert 300 > mean(second.attempts for second in last)


@pytest.mark.parametrize(
    ("client", "limit"), [(retry_storm.BREAKER, 15), (retry_storm.LIMIT, 4)]
)
def test_asking_less_ends_a_storm(client: str, limit: int) -> None:
    """A breaker and a limit that learns are well again soon."""
    well, _ = storm(client)

    assert well is not None
    assert well <= limit


@pytest.mark.parametrize(
    ("how", "share"), [("slow", 0.2), ("fails", 0.05), ("hangs", 0.05)]
)
def test_a_bad_replica_gets_few_calls(how: str, share: float) -> None:
    """The others answer nearly all."""
    scene = balancing.Scene(bad=1, how=how, until=8.0, warm=3.0)
    result = balancing.simulate(scene, SEED)
    assert 0.99 < result.good
    assert share > result.shares[0]


def test_the_demo_of_tower_in_turn_and_by_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slowest of ten endpoints decides, or does not."""
    monkeypatch.setattr(balancing, "REQUESTS", 3_000)
    turns, *_ = balancing.run("tower", "round_robin", SEED)
    latency, *_ = balancing.run("tower", "latency", SEED)
    assert turns > 2 * latency


def test_weights_are_kept_by_calls_in_flight() -> None:
    """About one to three."""
    assert 2.4 < balancing.run("weights", (2, 10.0), SEED) < 3.2


SLOW = (6, 11)


def hedged(hedge: str) -> list[hedge_storm.Second]:
    """The seconds of a storm in which servers are slow for a short time."""
    return hedge_storm.run(hedge, SEED, hedge_storm.FEW, SLOW, 26)


def test_hedges_without_a_bound_go_on_for_ever() -> None:
    """Once more copies are sent than servers can do, every call is hedged."""
    seconds = hedged(hedge_storm.UNBOUND)

    assert hedge_storm.recovered(seconds, SLOW) is None
    assert hedge_storm.extra(seconds[-10:]) > 0.9


@pytest.mark.parametrize("hedge", [hedge_storm.FIVE, hedge_storm.CANCELLED])
def test_a_bound_ends_the_storm_of_hedges(hedge: str) -> None:
    """A budget does, and so do servers that let go of losers."""
    seconds = hedged(hedge)

    assert hedge_storm.recovered(seconds, SLOW) is not None
    assert hedge_storm.extra(seconds) < 0.3


def test_a_hedge_cuts_the_tail() -> None:
    """One root in a thousand waits for 74 ms instead of 1.8 s."""
    late = sorted(cast("list[float]", tail.run("tail", SEED, 4000)))
    weight = tail.beyond(tail.FIRST_BEYOND) * tail.beyond(tail.SECOND_BEYOND)
    roots = cast("tail.Roots", tail.run("roots", SEED, 5))

    assert 0.060 <= tail.quantile(late, weight, 1e-6) <= 0.090
    assert 0.015 <= roots.hedges / (5 * tail.LEAVES) <= 0.025
    assert all(hedged <= first + 1e-9 for first, hedged in roots.leaves)


@pytest.mark.parametrize("latency", [0.002, 0.010, 0.030, 0.069, 1.0, 1.8, 5.0])
def test_latencies_are_drawn_as_they_are_distributed(latency: float) -> None:
    """What share takes longer, and longer than what a share takes, agree."""
    assert latency == pytest.approx(tail.latency(tail.beyond(latency)))


def overloaded(policy: str) -> list[throttling.Second]:
    """The last seconds of a short overload."""
    load = [(0, 2, throttling.NORMAL), (2, 7, throttling.OVERLOAD)]
    return throttling.run(policy, SEED, load, (0, 0))[-2:]


def test_refusing_takes_all_the_time_there_is() -> None:
    """A backend asked for four times its capacity answers next to nothing."""
    seconds = overloaded(throttling.NONE)

    assert 10 > mean(second.answered for second in seconds)


def test_throttling_leaves_time_for_answers() -> None:
    """With K = 2 every accepted request pays for one that is refused."""
    seconds = overloaded(throttling.DEFAULT)

    assert 500 <= mean(second.answered for second in seconds)


def test_a_throttle_is_well_again_soon_after_an_outage() -> None:
    """Its window is short, and a probe finds the end of the outage."""
    seconds = throttling.run(
        throttling.DEFAULT, SEED, [(0, 34, throttling.NORMAL)], (2, 10)
    )
    well = throttling.recovered(seconds, 10)

    assert well is not None
    assert well <= 15


class EnoughError(BaseException):
    """Ends a run."""


def stop_after(jumps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End what runs in virtual time after so many jumps of its clock."""
    jump = VirtualClock.jump_alone
    left = itertools.count(jumps, -1)

    def jump_or_stop(clock: VirtualClock, until: float) -> None:
        if not next(left):
            raise EnoughError
        jump(clock, until)

    monkeypatch.setattr(VirtualClock, "jump_alone", jump_or_stop)


# NB: those of `tail` begin all at once; `test_a_hedge_cuts_the_tail` runs them small.
@pytest.mark.parametrize(
    "simulation",
    [each for each in SIMULATIONS if each.NAME != tail.NAME],
    ids=lambda each: each.NAME,
)
def test_every_configuration_runs(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment, so that a study that the library breaks fails in seconds."""
    jobs: dict[tuple[object, ...], Job] = {}
    for job in simulation.jobs():
        # NB: all numbers of a job are seeds and sizes.
        jobs.setdefault(tuple(p for p in job if not isinstance(p, int)), job)

    for job in jobs.values():
        with monkeypatch.context() as patched:
            stop_after(100, patched)
            with suppress(EnoughError):
                simulation.run(*job)


def test_an_error_that_is_no_part_of_a_study_ends_a_run() -> None:
    """It says nothing else of a policy that fails."""

    def send(heap: World, sent: Sent) -> None:
        heap.soon(sent.answer, Outcome(None, TypeError("a study is broken")))

    record = balancing._Record([], 0.0)  # pyright: ignore[reportPrivateUsage]  # ours
    with pytest.raises(TypeError, match="a study is broken"):
        _heap.run(SEED, [Pipeline()], send, iter([1.0, 2.0]), record)


# -- What is made of them


def test_figures_that_are_out_do_not_hold() -> None:
    """Each kind of check holds at its bounds and not beyond them."""
    assert within("", 10.5, 10, 0.5).holds
    assert not within("", 10.6, 10, 0.5).holds
    assert between("", [1, 2], 1, 2, " s").holds
    assert not between("", [1, 2.1], 1, 2, " s").holds
    assert not between("", [1, None], 1, 2, " s").holds
    assert at_least("", 3, 3).holds
    assert not at_least("", 2, 3).holds
    assert at_most("", 3, 3).holds
    assert not at_most("", 4, 3).holds
    assert not at_most("", None, 3).holds


def test_times_of_recovery_are_spelt() -> None:
    """One time, a range, and runs that never recovered."""
    assert "after 3 s" == after([3, 3])
    assert "after 3–4 s" == after([4, 3])
    assert "after 3 s or never" == after([3, None])
    assert "never" == after([None])


def test_recovery_is_ten_good_seconds() -> None:
    """One good second among bad ones is none; five in a hundred may be bad."""
    wanted = [100] * 30
    good = [0] * 10 + [100] + [0] * 3 + [95] * 16

    assert 4 == recovery(good, wanted, 10)
    assert 0 == recovery(good, wanted, 14)
    assert recovery(good, wanted, 21) is None


def test_a_table_is_markdown() -> None:
    """Cells stand under their heads."""
    assert "| a | bc |\n|---|----|\n| 1 | 2  |" == markdown([["a", "bc"], ["1", "2"]])


def test_a_plot_is_a_drawing_of_its_lines() -> None:
    """It is well-formed, the same each time, and names what it shows."""
    arguments = (
        "a & b",
        Axis("x", 0, 10),
        Axis("y", 1, 100, log=True),
        [Line("one < two", [(0, 1), (10, 100)]), Line("cut", [(0, 0.5), (5, 1000)])],
    )
    drawn = plot(*arguments, shaded=(2, 3))
    texts = [text.strip() for text in ElementTree.fromstring(drawn).itertext()]

    assert drawn == plot(*arguments, shaded=(2, 3))
    assert {"a & b", "x", "y", "one < two", "cut", "10", "100"} <= set(texts)
    assert "M62.0 292.0L530.0 18.0" in drawn
    assert "M296.0 18.0" in drawn


@pytest.mark.parametrize("simulation", SIMULATIONS, ids=lambda each: each.NAME)
def test_every_simulation_is_documented(simulation: Simulation) -> None:
    """The page has its tables, and its plot is a drawing."""
    page = PAGE.read_text("utf-8")
    section = re.search(
        rf"<!-- begin {simulation.NAME} -->\n(.*)<!-- end {simulation.NAME} -->",
        page,
        flags=re.DOTALL,
    )
    plotted = PAGE.with_suffix("") / f"{simulation.NAME}.svg"

    assert f"(simulations/{simulation.NAME}.svg)" in page
    assert section is not None
    assert 2 == len(re.findall(r"^\|--", section[1], flags=re.MULTILINE))
    assert ElementTree.parse(plotted).getroot().tag.endswith("svg")


def test_a_report_takes_the_place_of_the_one_before() -> None:
    """Only its own section of the page changes."""
    report = Report([["a"], ["1"]], [within("b", 1, 1, 0)], "")
    page = page_with("tail", report)

    assert "| a |\n|---|\n| 1 |\n\n| figure | " in page
    assert page.partition("<!-- begin tail -->")[0] in PAGE.read_text("utf-8")
    assert page.partition("<!-- end tail -->")[2] in PAGE.read_text("utf-8")


# -- The page on choosing numbers

WALK = """
`shop.toml`:

```toml
version = 1
```

```python
print(open("shop.toml").read(), end="")
```

```text
old
```

```sh
cd shop
resilient simulate quota \\
    --print --list
```

```text
```
"""


def test_a_page_is_walked_from_top_to_bottom() -> None:
    """Files are written, and what is printed last is shown."""
    walked = _walk.walked(WALK)

    assert "\n```text\nversion = 1\n```\n\n```sh\ncd shop\n" in walked
    assert re.search(r"^```text\nbalancing\n(.+\n)+quota\n(.+\n)+```$", walked, re.M)
    assert walked == _walk.walked(walked)


def test_a_page_whose_code_fails_is_not_written() -> None:
    """Nor one whose command is wrong; a check that fails is shown."""
    with pytest.raises(subprocess.CalledProcessError):
        _walk.walked(WALK.replace("print(", "prin("))
    with pytest.raises(subprocess.CalledProcessError):
        _walk.walked(WALK.replace("quota", "quote").replace("--list", ""))


def test_the_numbers_of_a_log_are_those_of_the_scenario() -> None:
    """And the numbers of the pull request are those that were chosen."""
    page = _walk.PAGE.read_text("utf-8")
    printed = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    [scenario] = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    files = re.findall(r"`shop.py`:\n\n```python\n(.*?)^```$", page, re.M | re.S)
    [chosen] = re.findall(r"attempts, of seven seeds.*\n  (.*?): 0", page)
    rows = re.findall(rf"^\| (?:shop:catalogue|{chosen}) +(\|.*)$", page, re.M)
    before, after = (_catalogue(file) for file in files[-2:])
    changes = dict(pair.split("=") for pair in chosen.split(", "))
    values = {
        key: int(value) if value.isdecimal() else value
        for key, value in changes.items()
    }

    assert 7 == len(printed)
    for line in printed[0].splitlines():
        assert re.search(rf"^{re.escape(line)}(\s|$)", scenario, re.M)
    assert repr(after) == repr(changed(before, values))
    assert [rows[-2]] == [rows[-1]]


def _catalogue(file: str) -> Policy[Any]:
    names: dict[str, Any] = {}
    exec(file, names)
    found: Policy[Any] = names["catalogue"]
    return found
