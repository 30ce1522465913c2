"""What the second act prints: the plan, a line a second, and the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from resilient import Balance, EndpointState, Pipeline
from resilient.demo.load import Log
from resilient.demo.replicas import (
    DEAD,
    EACH,
    NAMES,
    ROLLED,
    SLOW,
    SLOWER,
    Figures,
    Results,
    Rollout,
)
from resilient.demo.report import Paper, wrapped

_REASONS: Final = (
    "the whole call",
    "another replica; five successes pay for one retry",
    "who answers fast and well; five failures in a row take a replica out",
    "one attempt: four times what the slow one usually takes",
)

_HEADS: Final = ("bare", "Balance")


class ReplicasReport(Paper):
    """What the second act prints."""

    def plan(self, day: Rollout, pipeline: Pipeline) -> None:
        """Say what is about to happen."""
        self.show(
            *wrapped(
                "Four replicas, two clients. Both send the same"
                f" {EACH} requests a second for {day.seconds} s, at the same times."
                " The bare one asks each replica in its turn. The other one goes"
                " through this pipeline, outermost first:"
            ),
            "",
        )
        for policy, reason in zip(pipeline.policies, _REASONS, strict=True):
            shown = "Balance(...)" if isinstance(policy, Balance) else repr(policy)
            self.show(f"  {shown}", *wrapped(reason, "      "))
        self.show(
            "",
            *wrapped(
                f"One replica is well, one takes {SLOWER} times as long, one fails"
                " at once, and one is rolled: it is stopped from"
                f" {day.stop:.1f} s to {day.start:.1f} s, and the Balance is told."
                " Calls answered, second by second:"
            ),
            "",
        )
        self.head(*_HEADS, "ejected")

    def second(self, now: int, log: Log, day: Rollout, balance: Balance[str]) -> None:
        """Say what became known in the last second."""
        weather = "one rolled" if day.stop <= now - 0.5 < day.start else "all run"
        out = [
            each.name
            for each in balance.endpoints
            if each.state in (EndpointState.EJECTED, EndpointState.PROBING)
        ]
        over = now > day.seconds
        self.tick(now, "last calls" if over else weather, log, ", ".join(out))

    def table(self, results: Results) -> None:
        """Show the results."""
        self.compare(_HEADS, _rows(results.bare, results.balanced))
        for title, counts in (
            ("bare lost", results.bare.errors),
            ("Balance lost", results.balanced.errors),
        ):
            self.count(title, counts)
        for removal in results.ejected:
            self.show(
                f"  {'ejected' if removal is results.ejected[0] else '':<13}"
                f"{removal.at:>6.2f} s  {removal.replica} for {removal.seconds:.1f} s"
            )
        self.show("", *wrapped(_moral(results)))


def _rows(*clients: Figures) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of the table: a title and a cell for each client."""
    yield "answered", [f"{client.answered:.1%}" for client in clients]
    yield (
        "  while one was stopped",
        [f"{client.answered_in_roll:.1%}" for client in clients],
    )
    yield "p50", [f"{client.p50 * 1000:.0f} ms" for client in clients]
    yield "p99", [f"{client.p99 * 1000:.0f} ms" for client in clients]
    for name in NAMES:
        yield (
            f"share of {name}",
            [f"{client.shares[name]:.1%}" for client in clients],
        )
    yield "attempts", [f"{client.attempts}" for client in clients]
    yield "requests", [f"{client.requests}" for client in clients]


def _moral(results: Results) -> str:
    bare, balanced = results.bare, results.balanced
    return (
        f"The bare client lost {1 - bare.answered:.1%} of its requests, the balanced"
        f" one {1 - balanced.answered:.1%}: it gave the {DEAD} replica"
        f" {balanced.shares[DEAD]:.1%} of its attempts and the {SLOW} one"
        f" {balanced.shares[SLOW]:.1%}, and none to the {ROLLED} one while that was"
        " stopped."
    )
