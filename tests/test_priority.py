"""Priority: what a block says of the calls inside it."""

from __future__ import annotations

import asyncio
import contextvars
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    Bulkhead,
    Call,
    Pipeline,
    Priority,
    current_call,
    deadline_after,
    priority,
    remaining,
)
from resilient._values.priority import shed_rank_of
from resilient.testing import virtual_time


def standing() -> tuple[Priority, float]:
    """Return what the call that runs here knows of itself."""
    call = current_call()
    return call.priority, call.shed_rank


def seen() -> tuple[Priority, float]:
    """Return what a call made here would know of itself."""
    return Pipeline().call(standing)


# -- Classes


@in_every_colour
async def test_a_call_is_as_important_as_the_block_around_it_says(w: World) -> None:
    """However deep inside it is made; normal where no block names a priority."""
    found: list[Priority] = []

    async def look() -> None:
        found.append(current_call().priority)

    async def nested() -> None:
        await look()
        await w.call(Bulkhead(1), look)

    await w.call(Pipeline(), nested)
    with priority("batch"):
        await w.call(Pipeline(), nested)
    await w.call(Pipeline(), look)
    normal, batch = Priority.NORMAL, Priority.BATCH
    assert [normal, normal, batch, batch, normal] == found


def test_the_four_classes_fall() -> None:
    """From what a user waits for to what may run at any other time."""
    found = []
    for name in ("critical", "normal", "sheddable", "batch"):
        with priority(name):
            found.append(seen()[0])
    assert [3, 2, 1, 0] == found == sorted(Priority, reverse=True)


def test_the_innermost_block_counts() -> None:
    """It may say more or less than the one around it, which then counts again."""
    with priority("batch"):
        with priority("critical"):
            assert Priority.CRITICAL == seen()[0]
        assert Priority.BATCH == seen()[0]


def test_a_class_may_be_given_as_such() -> None:
    """What a call says can be passed on."""
    with priority("sheddable"):
        found = seen()[0]
    with priority(found):
        assert Priority.SHEDDABLE == seen()[0]


def test_a_block_changes_no_deadline() -> None:
    """Each tells its own thing; together they tell both."""
    with virtual_time(), deadline_after(3), priority("batch"), deadline_after(5):
        assert 3.0 == remaining()
        assert Priority.BATCH == seen()[0]


def test_work_started_inside_keeps_its_class_after_the_block() -> None:
    """Importance does not run out as time does."""
    with deadline_after(1), priority("batch", key="k"):
        inherited = contextvars.copy_context()
    assert (Priority.BATCH, shed_rank_of("k")) == inherited.run(seen)
    assert inherited.run(remaining) is None


def test_a_task_keeps_its_class_after_the_block() -> None:
    """A refresh in the background is no more important than what began it."""

    async def main() -> tuple[Priority, float]:
        with priority("batch", key="k"):
            task = asyncio.ensure_future(asyncio.to_thread(seen))
        return await task

    assert (Priority.BATCH, shed_rank_of("k")) == asyncio.run(main())


def test_a_generator_keeps_what_it_began_with() -> None:
    """Its items may be asked for from anywhere."""

    @Pipeline()
    def items() -> Any:
        while True:
            yield standing()

    with priority("batch", key="a"):
        stream = items()
        first = next(stream)
    with priority("critical", key="b"):
        assert (Priority.BATCH, shed_rank_of("a")) == first == next(stream)
    stream.close()


def test_a_block_is_entered_once_at_a_time() -> None:
    """An object for each block, as with `deadline_after`."""
    block = priority("batch")
    with block:
        with pytest.raises(RuntimeError) as caught:
            block.__enter__()
        assert (
            "a priority is for one block at a time: call it anew for each block"
            == str(caught.value)
        )
    with block:
        assert Priority.BATCH == seen()[0]


# -- Shed ranks


def test_calls_of_one_task_share_their_shed_rank() -> None:
    """The rank is the hash of their key, whatever the class."""
    with priority("normal", key="request-1"):
        first = seen()[1]
        with priority("batch"):
            second = seen()[1]
    assert shed_rank_of("request-1") == first == second


def test_the_innermost_key_counts() -> None:
    """A batch of many tasks names each."""
    with priority("batch", key="all"), priority("batch", key="one"):
        assert shed_rank_of("one") == seen()[1]


def test_without_a_key_the_outermost_block_draws() -> None:
    """Once, for all inside; the next block draws anew."""
    with virtual_time(seed=1):
        with priority("batch"):
            first = [seen()[1], seen()[1]]
            with priority("normal"):
                first.append(seen()[1])
        with priority("batch"):
            second = seen()[1]
    assert 1 == len(set(first))
    assert second not in first


def test_without_any_block_the_outermost_call_draws() -> None:
    """Whichever asks first: it, a call inside it, or a block inside it."""

    def block() -> float:
        with priority("batch"):
            return seen()[1]

    def first_asked_inside() -> list[float]:
        return [seen()[1], block(), standing()[1], seen()[1]]

    def first_asked_in_a_block() -> list[float]:
        return [block(), standing()[1], seen()[1], block()]

    def begun_before() -> list[float]:
        inner: list[Call] = []

        def begin() -> Any:
            inner.append(current_call())
            yield

        stream = Pipeline()(begin)()
        next(stream)
        return [standing()[1], inner[0].shed_rank, seen()[1]]

    found: list[Any] = []
    for body in (first_asked_inside, first_asked_in_a_block, begun_before):
        ranks = Pipeline().call(body)
        assert 1 == len(set(ranks))
        found.append(ranks[0])
    assert 3 == len(set(found))


def test_the_shed_rank_of_a_key_is_the_same_in_every_process() -> None:
    """Python's own hash of a text is not."""
    keys: list[Any] = ["request-1", b"request-1", 7, "7", "\udc80", ""]
    code = (
        "from resilient._values.priority import shed_rank_of;"
        f"print([*map(shed_rank_of, {keys!a})])"
    )
    there = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert [repr([shed_rank_of(key) for key in keys])] * 2 == there
    assert (
        shed_rank_of("request-1")
        == shed_rank_of(b"request-1")
        != shed_rank_of("request-2")
    )
    assert shed_rank_of(7) == shed_rank_of("7")
    # Written down, so that no release cuts others than the one before.
    assert 0.3602450806647539 == shed_rank_of("request-1")


@pytest.mark.parametrize("usage", ["{}", "req-{:08d}", "{:x}", "user:{}:order"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_numbered_keys_are_cut_evenly(usage: str, share: float) -> None:
    """For any share, that share of the shed ranks lies below it."""
    number = 20_000
    below = sum(shed_rank_of(usage.format(n)) < share for n in range(number))
    spread = math.sqrt(number * share * (1 - share))
    assert abs(below - number * share) < 3 * spread


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: priority("urgent"),  # type: ignore[arg-type]  # it is refused
            ValueError,
            '`name` must be one of "critical", "normal", "sheddable", "batch",'
            " got 'urgent'",
        ),
        (
            lambda: priority("batch", key=1.5),  # type: ignore[arg-type]  # as above
            TypeError,
            "`key` must be a str, bytes or int, got float",
        ),
        (
            lambda: priority("batch", key=True),
            TypeError,
            "`key` must be a str, bytes or int, got bool",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    make: Callable[[], priority], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value; of a key, which may be secret, its type."""
    with pytest.raises(error) as caught:
        make()
    assert text == str(caught.value)
