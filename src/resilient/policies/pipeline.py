"""Pipeline: several policies around one call, in the order they are listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from resilient._calls.call import Call
from resilient._calls.judging import (
    Condition,
    Judge,
    as_judged,
    asks_for_values,
    judge_by,
)
from resilient._calls.outcome import Outcome
from resilient._edges.steps import Proceed, Steps, linked, proceed_by, steps_of
from resilient._events.listeners import Listener
from resilient._policy.policy import F, Policy, Usage
from resilient._values.checks import flag
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence
    from typing import Self


_COMPOSES_AND_JUDGES: Final = Trait.COMPOSES | Trait.JUDGES


class Pipeline(Policy[F]):
    """Compose policies: the first listed is the outermost.

    The order that serves most: ``Fallback · StaleCache · Coalesce · Timeout
    (total) · Retry · Hedge · Balance · CircuitBreaker or AdaptiveThrottle ·
    RateLimiter · Bulkhead or AdaptiveConcurrency · Timeout (attempt)``. An
    order or numbers that defeat themselves are pointed out by a
    `ResilientWarning` at the line that built them.

    A pipeline is a policy: it may stand in another. The innermost one with a
    ``classify`` judges; one further out that has its own judges anew.

    The same policy object in two pipelines shares its state between them.

    Args:
        *policies: Policies, each object once.
        classify: What counts as a failure, for every policy without an `on`:
            exception types, or a function of the `Outcome` that returns a
            `Verdict`, a bool (True: failure), or the seconds after which to
            try again.
        intended: Whether the order is meant as it is: nothing is then said of
            one that defeats itself.
        name: Name in errors of those of its policies that have none of their
            own; default: that of the function it first decorates.

    Raises:
        TypeError: Something listed is no policy, or is a `Retry` that nothing
            tells what to retry.
        ValueError: A policy is listed twice.
    """

    __slots__ = (
        "_around_function",
        "_judge",
        "_traits",
        "classify",
        "intended",
        "policies",
    )

    def __init__(
        self,
        *policies: Policy[F],
        classify: Condition | None = None,
        intended: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.intended: bool = flag("intended", intended)
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(
                    f"Pipeline takes policies, got {policy!r}; a decorator needs"
                    " its parentheses, @Pipeline(…)"
                )
        self.policies: tuple[Policy[F], ...] = policies
        self.classify: Condition | None = classify
        self._judge: Judge | None = judge_by("classify", classify, policy=self)
        seen: set[int] = set()
        for policy in self._walk():
            if id(policy) in seen:
                raise ValueError(
                    f"a policy must be listed once in a pipeline, got {policy!r}"
                    " twice: it would take two permits for one call"
                )
            seen.add(id(policy))
        self._traits: Trait | None = self._union() if _are_known(policies) else None
        for policy, classified in self._classified(outside=False):
            policy._check_composed(classified=classified)
        for policy in policies:
            policy._attach_to(self)
        # Its steps around a function alone; None: not asked for yet, or none.
        self._around_function: Steps = None
        if not intended:
            for place, policy in enumerate(policies, start=1):
                policy._warn_of_order(policies[place:])

    @property
    def traits(self) -> Trait:  # type: ignore[override]  # those of its policies
        return self._union() if self._traits is None else self._traits

    def _union(self) -> Trait:
        traits = Trait.COMPOSES if self._judge is None else _COMPOSES_AND_JUDGES
        for policy in self.policies:
            traits |= policy.traits
        # NB: what is beside a `PerKey` in here has no policy for each key.
        return traits & ~Trait.KEYED

    def with_(self, **changes: Any) -> Self:
        if "policies" not in changes:
            changes["policies"] = tuple(policy.with_() for policy in self.policies)
        return super().with_(**changes)

    def around(self, proceed: Proceed, call: Call) -> Awaitable[Outcome]:
        # NB: not a coroutine itself: a pipeline adds no frame of its own.
        return proceed_by(self._linked(steps_of(proceed)))(call)

    def link(self, inside: Steps) -> Steps:
        if type(self).around is not Pipeline.around:
            # A subclass has something to add.
            return super().link(inside)
        return self._linked(inside)

    def _linked(self, inside: Steps) -> Steps:
        if inside is not None:
            return self._composed(inside)
        # NB: kept, for blocks, requests and each key of a `PerKey` ask each
        # time. And no other: what is inside belongs to another, which may
        # be gone tomorrow.
        if self._around_function is None:
            self._around_function = self._composed(None)
        return self._around_function

    def _composed(self, inside: Steps) -> Steps:
        judging = None if self._judge is None else _Judging(self._judge)
        if judging is not None:
            inside = linked(judging, inside)
        for policy in reversed(self.policies):
            inside = policy.link(inside)
            if judging is not None and Trait.JUDGES in policy.traits:
                inside = linked(judging, inside)
        return inside

    def _walk(self) -> Iterator[Policy[Any]]:
        # NB: no generator in a generator: nested ones would take their depth
        # for each policy.
        pending: list[Policy[Any]] = [*reversed(self.policies)]
        while pending:
            policy = pending.pop()
            yield policy
            if isinstance(policy, Pipeline):
                pending += reversed(policy.policies)

    def _classified(self, *, outside: bool) -> Iterator[tuple[Policy[Any], bool]]:
        """Yield each policy, and whether a judge says what its failures are."""
        classified = outside or self._judge is not None
        for policy in reversed(self.policies):
            yield policy, classified
            classified = classified or Trait.JUDGES in policy.traits

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        for policy, told in self._classified(outside=classified):
            policy.check_usage(usage, classified=told)

    def _warn_of_order(self, inside: Sequence[Policy[Any]]) -> None:
        if not self.intended:
            super()._warn_of_order(inside)

    def check_function(self, fn: Callable[..., Any]) -> None:
        for policy in self.policies:
            policy.check_function(fn)

    def children(self) -> Sequence[Policy[Any]]:
        return self.policies

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(event)` called for everything its policies do.

        A policy that stands in other pipelines too tells of their calls as
        well.
        """
        endings = [policy.subscribe(listener) for policy in self.policies]
        # What comes too late is refused in the name of the whole.
        endings.append(super().subscribe(listener))

        def unsubscribe() -> None:
            for end in endings:
                end()

        return unsubscribe

    def reset(self) -> None:
        """Reset every policy."""
        for policy in self.policies:
            policy.reset()

    def is_pristine(self) -> bool:
        return all(policy.is_pristine() for policy in self.policies)

    def is_restrictive(self) -> bool:
        return any(policy.is_restrictive() for policy in self.policies)


def _are_known(policies: Sequence[Policy[Any]]) -> bool:
    """Whether the traits of policies are final: a `PerKey` learns its own."""
    return not any(
        policy._traits is None  # pyright: ignore[reportPrivateUsage]  # a sibling's
        if isinstance(policy, Pipeline)
        else Trait.KEYED in policy.traits
        for policy in policies
    )


class _Judging:
    """The step that judges the outcome of what is inside."""

    __slots__ = ("_judge", "_weighs")

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._weighs = asks_for_values(judge)

    def enter(self, call: Call) -> None:
        if self._judge is as_judged:
            call.judged_by = as_judged
            return
        call.way = call.step, None, call.way
        if self._weighs:
            call.weighs = True

    def leave(self, call: Call, permit: None, outcome: Outcome) -> Outcome:
        verdict = self._judge(outcome)
        if verdict is not outcome.verdict:
            outcome.verdict, outcome.health = verdict, None
        call.judged_by = self._judge
        return outcome

    def unwind(
        self, call: Call, permit: None, error: BaseException, leaving: bool
    ) -> None:
        pass
