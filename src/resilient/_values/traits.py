"""Traits: what a policy may do with the calls that pass through it."""

from __future__ import annotations

from enum import Flag, auto


class Trait(Flag):
    """What a policy may do; the order of a pipeline is checked by it.

    A policy of your own says so in its class, as in
    ``traits = Trait.RERUNS``, and takes part in the warnings about orders
    that defeat themselves, and in the refusal of usages without a meaning.

    ========== =============================================================
    trait      the policy
    ========== =============================================================
    RERUNS     may run what is inside again, one run after the other
    RACES      may run what is inside several times at once
    HOLDS      holds a permit for as long as what is inside runs
    PACES      lets so many calls pass in a time
    LEARNS     judges the dependency by the outcomes that it sees
    ANSWERS    may answer in the place of what is inside
    ABSORBS    answers for any failure, so that none is seen outside
    REMEMBERS  answers with what it kept from an earlier call
    SHARES     may give one answer to several calls
    JUDGES     says for the policies around it what a failure is
    CHOOSES    chooses where the call goes, and learns how it went there
    INTERRUPTS cuts short what takes too long, where that is possible
    KEYED      has a policy inside for each of many keys
    COMPOSES   does nothing but compose the policies inside
    ========== =============================================================
    """

    RERUNS = auto()
    RACES = auto()
    HOLDS = auto()
    PACES = auto()
    LEARNS = auto()
    ANSWERS = auto()
    ABSORBS = auto()
    REMEMBERS = auto()
    SHARES = auto()
    JUDGES = auto()
    CHOOSES = auto()
    INTERRUPTS = auto()
    KEYED = auto()
    COMPOSES = auto()


NONE = Trait(0)
