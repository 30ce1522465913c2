"""The table of what is promised: each of its cells is held by tests that are named."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Fallback,
    Hedge,
    RateLimitedError,
    RateLimiter,
    Timeout,
)
from resilient._machines.allotment import Allotment, Claim, allot
from resilient._runtimes import clock
from resilient.testing import MemoryStore, virtual_time

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "redis.md"

LIMITER, BUDGET = "sharing/test_rate_limiter.py", "sharing/test_budget.py"
BREAKER, BULKHEAD = "sharing/test_circuit.py", "sharing/test_bulkhead.py"
VALUES, HERE = "sharing/test_values.py", "sharing/test_promises.py"
LEASE, BUCKET = "machines/test_lease.py", "machines/test_shared_bucket.py"
HOLDING, PAID = "machines/test_holding.py", "machines/test_budget_lease.py"
QUORUM, VALUE = "machines/test_quorum.py", "machines/test_shared_value.py"

HELD: dict[str, list[list[str]]] = {
    "RateLimiter (bucket)": [
        [f"{LIMITER}::test_two_processes_share_one_burst"],
        [
            f"{LEASE}::TestAdversary",
            f"{LIMITER}::test_a_fleet_keeps_the_rate",
            f"{LEASE}::test_a_block_ends_with_its_lease",
            "sharing/test_faults.py::test_a_fleet_never_uses_more_and_never_stops",
        ],
        [
            f"{LIMITER}::test_a_leased_block_is_spent_without_the_store",
            f"{LIMITER}::test_one_answer_serves_all_who_wait_for_it",
            f"{LEASE}::test_a_member_that_refuses_looks_every_two_seconds",
        ],
        [
            f"{LEASE}::test_without_the_store_a_fleet_keeps_the_rate",
            f"{LEASE}::test_who_dwells_before_it_relies_on_the_store_books_what_it_uses",
            f"{LIMITER}::test_a_store_that_comes_back_is_used_again",
        ],
        [
            f"{BUCKET}::test_a_bucket_that_cannot_have_expired_was_lost",
            f"{BUCKET}::test_a_clock_that_jumps_refills_nothing",
            f"{BUCKET}::test_an_old_copy_gives_no_more_than_the_asker_saw",
            f"{LEASE}::test_a_newcomer_that_asks_first_after_a_loss_gets_a_burst",
        ],
    ],
    "same, `lease=0`": [
        [f"{HERE}::test_call_by_call_a_fleet_is_over_by_what_is_on_its_way"],
        [f"{HERE}::test_call_by_call_a_fleet_is_over_by_what_is_on_its_way"],
        [f"{LIMITER}::test_one_answer_serves_all_who_wait_for_it"],
        [f"{LEASE}::test_who_dwells_before_it_relies_on_the_store_books_what_it_uses"],
        [f"{LEASE}::test_a_newcomer_that_asks_first_after_a_loss_gets_a_burst"],
    ],
    "RetryBudget": [
        [f"{BUDGET}::test_two_processes_have_one_budget"],
        [
            f"{PAID}::TestAdversary",
            f"{PAID}::TestPaidAdversary",
            f"{PAID}::test_a_fleet_has_one_capacity",
        ],
        [
            f"{PAID}::test_a_full_budget_is_at_rest_until_its_next_exchange",
            f"{PAID}::test_a_success_asks_when_an_exchange_is_due",
        ],
        [f"{PAID}::test_what_a_member_has_without_the_store"],
        [
            f"{BUCKET}::test_a_bucket_that_cannot_have_expired_was_lost",
            f"{BUCKET}::test_a_bucket_that_may_have_expired_is_full",
            f"{BUCKET}::test_a_deposit_is_paid_in_up_to_the_capacity",
        ],
    ],
    "CircuitBreaker": [
        [f"{BREAKER}::test_a_fleet_that_calls_seldom_opens_together"],
        [
            f"{BREAKER}::test_a_minority_opens_nobody_else",
            f"{BREAKER}::test_a_majority_opens_the_fleet",
            f"{BREAKER}::test_a_busy_fleet_probes_by_one_member",
            f"{QUORUM}::test_a_fleet_opens_at_the_second_look",
        ],
        [
            f"{BREAKER}::test_a_slow_store_costs_no_call",
            f"{BREAKER}::test_a_closed_circuit_asks_seldom_and_only_with_calls",
        ],
        [f"{BREAKER}::test_without_the_store_each_probes_for_itself"],
        [
            f"{BREAKER}::test_a_store_that_forgets_is_reminded",
            f"{QUORUM}::test_a_store_that_lost_its_rows_waits_for_those_of_all",
        ],
    ],
    "Bulkhead": [
        [f"{BULKHEAD}::test_all_members_together_have_the_limit"],
        [
            f"{HOLDING}::TestAdversary",
            "sharing/test_slots_faults.py::test_a_fleet_never_runs_more_at_once",
        ],
        [f"{BULKHEAD}::test_a_call_within_the_share_does_not_wait"],
        [
            f"{BULKHEAD}::test_without_the_store_each_has_its_part",
            f"{HOLDING}::test_its_lease_holds_without_the_store",
        ],
        [f"{BULKHEAD}::test_a_store_that_forgets_lends_nothing_new_for_a_lease"],
    ],
    "same": [
        [],
        [f"{HERE}::test_a_process_that_was_stopped_has_its_running_calls_besides"],
        [],
        [],
        [f"{HERE}::test_each_share_has_a_number_above_all_before_it"],
    ],
    "StaleCache": [
        [
            f"{VALUES}::test_a_value_of_one_process_answers_in_another",
            f"{VALUES}::test_one_call_of_the_fleet_makes_a_value",
        ],
        [
            f"{VALUE}::test_a_value_is_never_younger_than_it_is",
            f"{VALUE}::test_one_asker_has_the_right_until_it_ends",
            "sharing/test_values_real.py::test_a_fleet_makes_each_value_once",
        ],
        [f"{VALUES}::test_a_fresh_value_in_memory_asks_no_store"],
        [
            f"{VALUES}::test_a_store_that_is_slow_costs_its_patience",
            f"{VALUES}::test_without_the_store_each_has_its_own_values",
        ],
        [
            f"{VALUES}::test_a_store_that_forgets_has_nothing",
            f"{VALUES}::test_a_clock_that_is_set_makes_no_value_younger",
        ],
    ],
    "**not shared**": [
        [f"{HERE}::test_what_measures_its_own_path_is_not_shared"],
        [f"{HERE}::test_what_measures_its_own_path_is_not_shared"],
        [],
        [],
        [],
    ],
}
"""The tests of each cell, from the second column on; none: the cell is empty."""


def table() -> dict[str, list[str]]:
    """Return the cells of the page's table by the first one of each row."""
    section = PAGE.read_text("utf-8").split("\n## What is promised\n")[1]
    lines = section.split("\n## ")[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names that a test file defines."""
    body = ast.parse((TESTS / path).read_text("utf-8")).body
    defined = {getattr(one, "name", "") for one in body}
    for one in body:
        if isinstance(one, ast.Assign):
            names = [one for one in one.targets if isinstance(one, ast.Name)]
            defined |= {name.id for name in names}
    return frozenset(defined)


def test_each_cell_is_held_by_tests_that_there_are() -> None:
    """A cell without one is a promise that is not kept; an empty one has none."""
    cells = table()
    assert list(HELD) == list(cells)
    for row, columns in cells.items():
        assert [bool(cell) for cell in columns] == [bool(tests) for tests in HELD[row]]
    for tests in [tests for columns in HELD.values() for tests in columns]:
        for test in tests:
            path, name = test.split("::")
            assert name in names_in(path), test


def test_the_pages_of_policies_lead_here() -> None:
    """Who reads of one policy finds what is promised of all."""
    for page in ("rate-limiter", "retry", "circuit-breaker", "bulkhead", "stale-cache"):
        text = PAGE.with_name(f"{page}.md").read_text("utf-8")
        assert re.search(r"\(redis\.md#what-is-promised\)", text), page


@pytest.mark.parametrize(
    "kind", [Timeout, Fallback, Hedge, AdaptiveConcurrency, AdaptiveThrottle]
)
def test_what_measures_its_own_path_is_not_shared(kind: Any) -> None:
    """A mean over hosts is the truth of none of them."""
    assert "shared" not in inspect.signature(kind).parameters


@pytest.mark.parametrize("delay", [0.0, 0.04])
def test_call_by_call_a_fleet_is_over_by_what_is_on_its_way(delay: float) -> None:
    """With a lease of 0: what is granted is used when the answer comes."""
    moments: list[float] = []

    async def calls(limiter: RateLimiter) -> None:
        until = clock.now() + 2.0
        while clock.now() < until:
            try:
                await limiter.acall(asyncio.sleep, 0.0)
            except RateLimitedError:
                await asyncio.sleep(0.003)
            else:
                moments.append(clock.now())

    async def main() -> None:
        store = MemoryStore(lease=0, patience=1)
        store.slow(delay)
        limiters = [
            RateLimiter(100, burst=10, shared=store, name="calls") for _ in range(2)
        ]
        async with asyncio.TaskGroup() as group:
            for limiter in limiters * 3:
                group.create_task(calls(limiter))

    virtual_time.run(main)
    level = worst = 10.0
    for before, moment in pairwise([moments[0], *moments]):
        level = min(10.0, level + 100.0 * (moment - before)) - 1.0
        worst = min(worst, level)
    assert worst >= -100.0 * delay - 1.0 - 1e-6
    assert len(moments) > 100


def claim(id_: str, seq: float, keeps: float, wants: float) -> Claim:
    """Return a claim of ten slots for two seconds."""
    return Claim(id_, seq, 0.0, -1.0, 10.0, keeps, keeps, wants, 2.0)


def test_a_process_that_was_stopped_has_its_running_calls_besides() -> None:
    """They cannot be stopped; it begins nothing more until others give slots back."""
    known, grant = allot(Allotment(), 100.0, claim("stopped", 0.0, 0.0, 4.0))
    assert 4.0 == grant.slots
    known, grant = allot(known, 101.0, claim("other", 0.0, 0.0, 10.0))
    assert 6.0 == grant.slots
    known, grant = allot(known, 102.5, claim("other", grant.seq, 6.0, 10.0))
    assert 10.0 == grant.slots
    known, grant = allot(known, 103.0, claim("stopped", 1.0, 4.0, 9.0))
    assert 4.0 == grant.slots


def test_each_share_has_a_number_above_all_before_it() -> None:
    """Of any member, and also from a store that lost its data."""
    known, highest = Allotment(), 0.0
    for number, id_ in enumerate("abacbbca"):
        if number == 5:
            known = Allotment()
        known, grant = allot(known, 100.0 + number, claim(id_, highest, 0.0, 1.0))
        assert grant.seq > highest
        highest = grant.seq
