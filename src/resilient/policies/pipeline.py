"""Pipeline: several policies around one call, in the order they are listed."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilient._calls.call import Call
from resilient._calls.judging import Condition, Judge, as_judged, judge_by
from resilient._calls.outcome import Outcome
from resilient._edges.driver import Proceed, leaf
from resilient._errors.warnings import warn
from resilient._events.listeners import Listener
from resilient._policy.policy import F, Policy, Usage
from resilient.policies.adaptive_concurrency import AdaptiveConcurrency
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.coalesce import Coalesce
from resilient.policies.fallback import Fallback
from resilient.policies.hedge.hedge import Hedge
from resilient.policies.retry import Retry
from resilient.policies.stale_cache import StaleCache
from resilient.policies.timeout import Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence
    from typing import Self


class Pipeline(Policy[F]):
    """Compose policies: the first listed is the outermost.

    The order that serves most: ``Fallback · StaleCache · Coalesce · Timeout
    (total) · Retry · Hedge · CircuitBreaker or AdaptiveThrottle · RateLimiter ·
    Bulkhead or AdaptiveConcurrency · Timeout (attempt)``. An order or numbers
    that defeat themselves are pointed out by a `ResilientWarning` at the line
    that built them.

    A pipeline is a policy: it may stand in another. The innermost one with a
    ``classify`` judges; one further out that has its own judges anew.

    The same policy object in two pipelines shares its state between them.

    Args:
        *policies: Policies, each object once.
        classify: What counts as a failure, for every policy without an `on`:
            exception types, or a function of the `Outcome` that returns a
            `Verdict`, a bool (True: failure), or the seconds after which to
            try again.
        name: Name in errors of those of its policies that have none of their
            own; default: that of the function it first decorates.

    Raises:
        TypeError: Something listed is no policy, or is a `Retry` that nothing
            tells what to retry.
        ValueError: A policy is listed twice.
    """

    __slots__ = ("_around_leaf", "_judge", "classify", "policies")

    def __init__(
        self,
        *policies: Policy[F],
        classify: Condition | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(
                    f"Pipeline takes policies, got {policy!r}; a decorator needs"
                    " its parentheses, @Pipeline(…)"
                )
        self.policies: tuple[Policy[F], ...] = policies
        self.classify: Condition | None = classify
        self._judge: Judge | None = judge_by("classify", classify)
        every = list(self._walk())
        for policy in every:
            if sum(policy is other for other in every) > 1:
                raise ValueError(
                    f"a policy must be listed once in a pipeline, got {policy!r}"
                    " twice: it would take two permits for one call"
                )
        for policy, classified in self._classified(outside=False):
            if isinstance(policy, Retry) and not classified:
                policy.refuse_unconditional()
        for policy in policies:
            policy.attach_to(self)
        self._around_leaf: Proceed | None = None
        for text in _defeats(policies):
            warn(text)

    composes = True

    @property
    def reruns(self) -> bool:  # type: ignore[override]  # it is that of its policies
        return any(policy.reruns for policy in self.policies)

    @property
    def replaces(self) -> bool:  # type: ignore[override]  # it is that of its policies
        return any(policy.replaces for policy in self.policies)

    @property
    def judges(self) -> bool:  # type: ignore[override]  # it depends on `classify`
        return self._judge is not None or any(one.judges for one in self.policies)

    @property
    def interrupts(self) -> bool:  # type: ignore[override]  # it is that of its policies
        return any(policy.interrupts for policy in self.policies)

    def with_(self, **changes: Any) -> Self:
        if "policies" not in changes:
            changes["policies"] = tuple(policy.with_() for policy in self.policies)
        return super().with_(**changes)

    def around(self, proceed: Proceed, call: Call) -> Awaitable[Outcome]:
        # NB: not a coroutine itself: a pipeline adds no frame of its own.
        return self._chain(proceed)(call)

    def bind(self, proceed: Proceed) -> Proceed:
        if type(self).around is not Pipeline.around:
            # A subclass has something to add.
            return super().bind(proceed)
        return self._chain(proceed)

    def _chain(self, proceed: Proceed) -> Proceed:
        """Return the policies with what is inside them."""
        if proceed is not leaf:
            return self._composed(proceed)
        # NB: kept, for blocks, requests and each key of a `PerKey` ask each
        # time. And no other: what is inside belongs to somebody else, who may
        # be gone tomorrow.
        if self._around_leaf is None:
            self._around_leaf = self._composed(leaf)
        return self._around_leaf

    def _composed(self, proceed: Proceed) -> Proceed:
        if self._judge is not None:
            proceed = _judging(proceed, self._judge)
        for policy in reversed(self.policies):
            proceed = policy.bind(proceed)
            if policy.judges and self._judge is not None:
                proceed = _judging(proceed, self._judge)
        return proceed

    def _walk(self) -> Iterator[Policy[Any]]:
        for policy in self.policies:
            yield policy
            if isinstance(policy, Pipeline):
                yield from policy._walk()

    def _classified(self, *, outside: bool) -> Iterator[tuple[Policy[Any], bool]]:
        """Yield each policy, and whether somebody says what its failures are."""
        classified = outside or self._judge is not None
        for policy in reversed(self.policies):
            yield policy, classified
            classified = classified or policy.judges

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        for policy, told in self._classified(outside=classified):
            policy.check_usage(usage, classified=told)

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

    def contains(self, other: Policy[Any]) -> bool:
        return other is self or any(one.contains(other) for one in self.policies)


def _judging(proceed: Proceed, judge: Judge) -> Proceed:
    """Return what proceeds, and judges what came of it if nobody has."""
    if judge is as_judged:
        return functools.partial(_kept, proceed)
    return functools.partial(_judged, proceed, judge)


def _kept(proceed: Proceed, call: Call) -> Awaitable[Outcome]:
    """Proceed, for what comes of it is judged already."""
    call.classified = True
    return proceed(call)


async def _judged(proceed: Proceed, judge: Judge, call: Call) -> Outcome:
    """Proceed, and judge what came of it by the pipeline's ``classify``."""
    outcome = await proceed(call)
    verdict = judge(outcome)
    if verdict is not outcome.verdict:
        outcome.verdict, outcome.health = verdict, None
    call.classified = True
    return outcome


def _defeats(policies: Sequence[Policy[Any]]) -> Iterator[str]:
    """Yield what is self-defeating in an order, outermost first.

    What a pipeline further in has within itself was said where it was built.
    """
    members = [list(_members(policy)) for policy in policies]
    for place, outers in enumerate(members):
        for inners in members[place + 1 :]:
            for outer, inner in itertools.product(outers, inners):
                yield from _defeat(outer, inner)


def _members(policy: Policy[Any]) -> Iterator[Policy[Any]]:
    if isinstance(policy, Pipeline):
        for one in policy.policies:
            yield from _members(one)
    else:
        yield policy


def _defeat(outer: Policy[Any], inner: Policy[Any]) -> Iterator[str]:
    if isinstance(outer, (AdaptiveConcurrency, Bulkhead)) and isinstance(inner, Retry):
        yield (
            f"{outer!r} stands outside {inner!r}: its slot is held while the"
            " retry waits; list it after the Retry"
        )
    if isinstance(outer, Retry) and isinstance(inner, Retry) and not outer.nested:
        yield (
            f"{inner!r} stands inside {outer!r}, and what it gives up on is not"
            " retried again; keep one of them"
        )
    if isinstance(outer, Retry) and isinstance(inner, Fallback) and inner.on is None:
        yield (
            f"{inner!r} stands inside {outer!r}, which will never see a failure;"
            " list it before the Retry"
        )
    if isinstance(outer, Hedge) and isinstance(inner, (Hedge, Retry)):
        retries = isinstance(inner, Retry)
        cure = "list the Retry first" if retries else "keep one of them"
        yield (
            f"{inner!r} stands inside {outer!r}, and each of its attempts would"
            f" do what it does anew; {cure}"
        )
    if isinstance(outer, (AdaptiveConcurrency, Bulkhead)) and isinstance(inner, Hedge):
        yield (
            f"{outer!r} stands outside {inner!r}: it counts one call where"
            " several attempts run; list it after the Hedge"
        )
    if isinstance(outer, Hedge) and isinstance(inner, Fallback) and inner.on is None:
        yield (
            f"{inner!r} stands inside {outer!r}, which will never see a failure;"
            " list it before the Hedge"
        )
    if isinstance(outer, Hedge) and isinstance(inner, Coalesce):
        yield (
            f"{inner!r} stands inside {outer!r}, whose attempts would all share one"
            " execution; list it before the Hedge"
        )
    if (
        isinstance(outer, Timeout)
        and isinstance(inner, Hedge)
        and (outer.seconds or math.inf) <= (inner.delay or 0.0)
    ):
        yield f"{outer!r} ends every call before {inner!r} would start a hedge"
    if isinstance(outer, StaleCache) and isinstance(inner, Fallback):
        yield (
            f"{inner!r} stands inside {outer!r}, which will keep its answers as the"
            " function's own; list it before the StaleCache"
        )
    if isinstance(outer, Coalesce) and isinstance(inner, StaleCache):
        yield (
            f"{inner!r} stands inside {outer!r}: what it knows would wait in line"
            " with what it has to ask for; list it before the Coalesce"
        )
    if isinstance(inner, StaleCache) and inner.stale_if_error and inner.on is None:
        kind = type(outer).__name__
        if isinstance(outer, (Hedge, Retry)):
            yield (
                f"{inner!r} stands inside {outer!r}, which will not see the"
                f" failures it answers for; list it before the {kind}"
            )
        if isinstance(outer, (AdaptiveThrottle, CircuitBreaker)):
            yield (
                f"{inner!r} stands inside {outer!r}, which takes its answers for"
                " those of the function, and refuses them while it rejects calls;"
                f" list it before the {kind}"
            )
    if (
        isinstance(outer, Timeout)
        and isinstance(inner, Timeout)
        and (outer.seconds or math.inf) <= (inner.seconds or 0.0)
    ):
        yield (
            f"{inner!r} stands inside {outer!r} and can never be reached; the"
            " outer one has to be the longer"
        )
