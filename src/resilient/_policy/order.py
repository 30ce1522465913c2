"""Orders that defeat themselves: a table over traits, and who is in it.

A rule is about two policies, one somewhere outside the other in the same
pipeline, in nested ones, or as two decorators of one function. It may excuse
the pair by their numbers, or by what stands further in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from resilient._calls.call import AnyPolicy
from resilient._values.traits import Trait

Excuse: TypeAlias = Callable[[AnyPolicy, AnyPolicy, Sequence[AnyPolicy]], bool]


class Order(NamedTuple):
    """All of `outer` around all of `inner` defeats itself.

    Attributes:
        outer, inner: Traits of the two policies.
        text: The warning; ``{outer}`` and ``{inner}`` are their reprs,
            ``{Outer}`` and ``{Inner}`` their kinds.
        unless: Asked about the two, and the policies inside the inner one.
    """

    outer: Trait
    inner: Trait
    text: str
    unless: Excuse = lambda outer, inner, further_in: False


@runtime_checkable
class _GivesUp(Protocol):
    """A policy that tells those around it which errors it gave up on.

    Attributes:
        nested: Whether it runs again what one inside it has given up on.
    """

    nested: bool


@runtime_checkable
class _HasLimit(Protocol):
    """A policy whose limit is known before the call."""

    seconds: float | None


@runtime_checkable
class _HasDelay(Protocol):
    """A policy that starts its second attempt after a delay; None: it varies."""

    delay: float | None


@runtime_checkable
class _HasAffinity(Protocol):
    """A policy that may send calls of one key to the same endpoint."""

    affinity: object


def _nested(outer: AnyPolicy, inner: AnyPolicy, further_in: object) -> bool:
    """Whether the outer one retries what the inner one has given up on."""
    if isinstance(outer, _GivesUp) and isinstance(inner, _GivesUp):
        return outer.nested
    return True


def _longer(outer: AnyPolicy, inner: AnyPolicy, further_in: object) -> bool:
    """Whether the outer limit is the longer; policies without a number are."""
    return _seconds(outer, math.inf) > _seconds(inner, 0.0)


def _hedges_in_time(outer: AnyPolicy, inner: AnyPolicy, further_in: object) -> bool:
    delay = inner.delay if isinstance(inner, _HasDelay) else None
    return _seconds(outer, math.inf) > (delay or 0.0)


def _seconds(policy: AnyPolicy, unknown: float) -> float:
    seconds = policy.seconds if isinstance(policy, _HasLimit) else None
    return unknown if seconds is None else seconds


def _passes_on(outer: object, inner: AnyPolicy, further_in: object) -> bool:
    """Whether what the inner one answers is the function's, or was."""
    return bool(inner.traits & (Trait.SHARES | Trait.REMEMBERS))


def _keeps_its_keys(outer: AnyPolicy, inner: object, further_in: object) -> bool:
    """Whether calls that share an answer would all go to the same endpoint."""
    return isinstance(outer, _HasAffinity) and outer.affinity is not None


def _again_inside(trait: Trait) -> Excuse:
    """Excuse an outer policy where one of its kind sees each attempt."""

    def unless(outer: object, inner: object, further_in: Sequence[AnyPolicy]) -> bool:
        return any(trait in policy.traits for policy in further_in)

    return unless


_OUT: Final = "{outer} stands outside {inner}"
_IN: Final = "{inner} stands inside {outer}"
_T = Trait

ORDERS: Final = (
    Order(
        _T.HOLDS,
        _T.RERUNS,
        _OUT + ": its slot is held while the retry waits; list it after the {Inner}",
    ),
    Order(
        _T.HOLDS,
        _T.RACES,
        _OUT + ": it counts one call where several attempts run; list it after the"
        " {Inner}",
    ),
    Order(
        _T.LEARNS,
        _T.RERUNS,
        _OUT + ": it sees one call where several attempts were made; list it after"
        " the {Inner}",
        _again_inside(_T.LEARNS),
    ),
    Order(
        _T.LEARNS,
        _T.RACES,
        _OUT + ": it sees one call where several attempts run; list it after the"
        " {Inner}",
        _again_inside(_T.LEARNS),
    ),
    Order(
        _T.PACES,
        _T.RERUNS | _T.RACES,
        _OUT + ": its further attempts take nothing from the limit; list it after"
        " the {Inner}",
        _again_inside(_T.PACES),
    ),
    Order(
        _T.RERUNS,
        _T.RERUNS,
        _IN + ", and what it gives up on is not retried again; keep one of them",
        _nested,
    ),
    Order(
        _T.RACES,
        _T.RERUNS,
        _IN + ", and each of its attempts would do what it does anew; list the"
        " {Inner} first",
    ),
    Order(
        _T.RACES,
        _T.RACES,
        _IN + ", and each of its attempts would do what it does anew; keep one of them",
    ),
    Order(
        _T.RERUNS | _T.RACES,
        _T.ABSORBS,
        _IN + ", which will not see the failures it answers for; list it before the"
        " {Outer}",
    ),
    Order(
        _T.RACES,
        _T.SHARES,
        _IN + ", whose attempts would all share one execution; list it before the"
        " {Outer}",
    ),
    Order(
        _T.CHOOSES,
        _T.RERUNS | _T.RACES,
        _OUT + ", whose attempts would all go to one endpoint; list it after the"
        " {Inner}",
        _again_inside(_T.CHOOSES),
    ),
    Order(
        _T.CHOOSES,
        _T.SHARES | _T.REMEMBERS,
        _IN + ", which takes its answers for those of the endpoint; list it before"
        " the {Outer}, or give that an affinity",
        _keeps_its_keys,
    ),
    Order(
        _T.REMEMBERS,
        _T.ANSWERS,
        _IN + ", which will keep its answers as the function's own; list it before"
        " the {Outer}",
        _passes_on,
    ),
    Order(
        _T.SHARES,
        _T.REMEMBERS,
        _IN + ": what it knows would wait in the queue with what it has to ask for;"
        " list it before the {Outer}",
    ),
    Order(
        _T.LEARNS,
        _T.ABSORBS,
        _IN + ", which takes its answers for those of the function, and refuses them"
        " while it rejects calls; list it before the {Outer}",
    ),
    Order(
        _T.INTERRUPTS,
        _T.RACES,
        "{outer} ends every call before {inner} would start a hedge",
        _hedges_in_time,
    ),
    Order(
        _T.INTERRUPTS,
        _T.INTERRUPTS,
        _IN + " and can never be reached; the outer one has to be the longer",
        _longer,
    ),
)

_RULES: Final = [(order.outer.value, order.inner.value, order) for order in ORDERS]


def defeats(policy: AnyPolicy, inside: Sequence[AnyPolicy]) -> Iterator[str]:
    """Yield what defeats itself where a policy stands outside others.

    Args:
        policy: The policy. Of a pipeline each member counts; what defeats
            itself among these was told where the pipeline was built.
        inside: What it stands outside of, outermost first.
    """
    # NB: as numbers: an operation of flags takes ten times as long, and in a
    # pipeline of n policies each rule is asked of n² / 2 pairs.
    inners = [
        (member, member.traits.value) for each in inside for member in _members(each)
    ]
    further_in = [inner for inner, _ in inners]
    for outer in _members(policy):
        traits = outer.traits.value
        rules = [(inner, order) for mask, inner, order in _RULES if mask & traits]
        for depth, (inner, own) in enumerate(inners if rules else (), start=1):
            for mask, order in rules:
                if mask & own and not order.unless(outer, inner, further_in[depth:]):
                    yield order.text.format(
                        outer=repr(outer),
                        inner=repr(inner),
                        Outer=type(outer).__name__,
                        Inner=type(inner).__name__,
                    )
                    break


def _members(policy: AnyPolicy) -> Iterator[AnyPolicy]:
    """Yield the policies that do something, of a pipeline those inside."""
    pending = [policy]
    while pending:
        member = pending.pop()
        if Trait.COMPOSES in member.traits:
            pending += reversed(member.children())
        else:
            yield member
