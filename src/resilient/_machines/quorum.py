"""Whether a fleet's circuit opens, and who may probe: what a store does with a report.

Each member of the fleet decides by a `Circuit` of its own, and *reports* what
it has seen (`Report`). A store puts the report's row to those of the others
and *rules* (`Verdict`), at one moment of the store's own clock, in one step
that nothing interrupts. `rule_on` is that step, and the specification of the
script that a server runs: a test replays drawn histories through both.

========= ============================= =================================
state     entered                       left
========= ============================= =================================
closed    at first; when the member     when a report finds, for `SETTLING`
          that holds the right reports  seconds, that the rule is met
          that its probes passed
open      then; when the probes of the  when the probes pass
          holder failed, anew
forced    by an order to force it open  by an order to reset it, which
                                        closes it
========= ============================= =================================

Ground rules:

- The rule: the failures of all members together are as many, of as many
  calls, as one circuit asks for; *and* the members that fail by themselves
  are more than half of those that report, and at least two. A member whose
  own network is broken opens no other's circuit.
- Twice: rows of a fleet that is half assembled may meet the rule by chance.
  It has to be met by each report of some length of time.
- Each opening, and each closing, begins a *term* with no rows. A row counts
  for its own term alone, and for `life` seconds.
- Members that see no failure report less often. So a closed circuit does not open
  for `ASSEMBLING` seconds after there was no row (a new term, lost data, a clock
  that was set): the rows of those that fail come first. Where no report came at the
  end of that time, it lasts for `SETTLING` seconds more: the members that see no
  failure had not made a call either.
- The right to probe: one member at a time holds it, for as long as it asked
  for. Members ask when, by their own clocks, the open time is over.
- The fleet remembers what a store forgets: every report says which term its
  member believes in, and whether the circuit is open. A store that knows an
  earlier term (an empty restart, an old copy) takes the member's word.
- An order (an operator's `force_open` or `reset` for the whole fleet) begins a
  term, whatever the member that brings it believes in. Every member that learns of
  a term that an order began obeys the order once.
- Moments of another time than the store's own, which has been set, are none:
  rows from the future are dropped, and a right that lasts longer than any.

Deliberately not modelled: ramps and throttling, which every member does by
itself; rows of failures.

Sources: Polly, issues 41 and 1449 (one bad node must not stop all others);
Raft for terms, without its elections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = [
    "CLOSED",
    "FORCED",
    "LONGEST_RIGHT",
    "OPEN",
    "RESET",
    "Assembly",
    "Report",
    "Row",
    "Verdict",
    "rule_on",
]

CLOSED: Final = 0.0
"""The fleet's circuit is closed."""

OPEN: Final = 1.0
"""It is open."""

FORCED: Final = 2.0
"""It is open by an order, until another one."""

RESET: Final = -1.0
"""It is closed, and an order closed it."""

SETTLING: Final = 0.4
"""Seconds for which the rule has to be met: two reports of one member."""

ASSEMBLING: Final = 2.2
"""Seconds in which each member that calls has reported, failures or not."""

LONGEST_RIGHT: Final = 300.0
"""Seconds for which the right to probe is given at most."""

KEEP: Final = 72.0
"""Seconds that a store keeps what it knows, at least, after the last report."""

DAY: Final = 86400.0
"""Seconds, besides, that it keeps an order to force the circuit open."""


class Row(NamedTuple):
    """What one member has seen.

    Attributes:
        at: The store's time of its report.
        life: Seconds that it counts for.
        calls, failures, slow: The calls of its window.
        failing: 1.0 if they meet its own rule, but for how many they are.
    """

    at: float
    life: float
    calls: float
    failures: float
    slow: float
    failing: float


class Report(NamedTuple):
    """What a member tells; see the top of this module.

    Attributes:
        id: Which member it is.
        term: The term that it believes in ...
        open: ... whether the fleet's circuit is open in that: `OPEN`, `CLOSED`,
            `FORCED` or `RESET` ...
        openings: ... how many times it has opened without closing ...
        remaining: ... and for how many seconds more.
        calls, failures, slow, failing, life: Of its row; while the fleet's
            circuit is open, the calls by which it opened.
        minimum: Calls of all members before their shares mean anything.
        rate: Share of failures that opens; above 1.0: none does.
        slow_rate: The same of slow calls.
        open_for: Seconds for which it opens, if it opens by this report.
        probed: 1.0: its probes passed; -1.0: they failed; 0.0: neither.
        right: Seconds for which it wants the right to probe; 0.0: it does not.
        order: What all members are to do, `FORCED` or `RESET`; 0.0: nothing.
    """

    id: str
    term: float = 0.0
    open: float = 0.0
    openings: float = 0.0
    remaining: float = 0.0
    calls: float = 0.0
    failures: float = 0.0
    slow: float = 0.0
    failing: float = 0.0
    life: float = 10.0
    minimum: float = 20.0
    rate: float = 0.5
    slow_rate: float = 2.0
    open_for: float = 5.0
    probed: float = 0.0
    right: float = 0.0
    order: float = 0.0


class Assembly(NamedTuple):
    """What a store keeps.

    Attributes:
        term: Grows with each opening, closing and order.
        open: `OPEN`, `CLOSED`, `FORCED` or `RESET`.
        openings: How many times it has opened without closing in between.
        until: When its open time is over; while it is closed, before when it does
            not open; while it is forced open, when that may be forgotten.
        met: Since when the rule has been met; 0.0: it is not.
        holder: Who holds the right to probe; "": no member.
        held: Until when.
        calls, failures, slow: Of all members, when it opened.
        rows: Those of this term, by member.
    """

    term: float = 0.0
    open: float = 0.0
    openings: float = 0.0
    until: float = 0.0
    met: float = 0.0
    holder: str = ""
    held: float = 0.0
    calls: float = 0.0
    failures: float = 0.0
    slow: float = 0.0
    rows: Mapping[str, Row] = {}


class Verdict(NamedTuple):
    """What a store says.

    Attributes:
        term: The term.
        open: `OPEN`, `CLOSED`, `FORCED` or `RESET`.
        openings: How many times it has opened without closing in between.
        remaining: Seconds until its open time is over; below 0: it is.
        holds: 1.0 if the asker holds the right to probe.
        calls, failures, slow: Of all rows; while it is open, when it opened.
        failing: How many members fail by themselves ...
        members: ... of how many that report.
    """

    term: float
    open: float
    openings: float
    remaining: float
    holds: float
    calls: float
    failures: float
    slow: float
    failing: float
    members: float


def rule_on(known: Assembly, now: float, report: Report) -> tuple[Assembly, Verdict]:
    """Rule on one report.

    NB: a script does the same, operation by operation: change both.

    Args:
        known: What the store has.
        now: The store's time, in seconds.
        report: What is reported.

    Returns:
        What the store has then, and what it says.
    """
    term, is_open, openings = known.term, known.open, known.openings
    until, met, holder, held = known.until, known.met, known.holder, known.held
    why = known.calls, known.failures, known.slow
    rows = dict(known.rows)
    if report.term > term:
        # It has been lost, or is an old copy.
        term, is_open, openings = report.term, report.open, report.openings
        until, met, holder, held = now + report.remaining, 0.0, "", 0.0
        why = report.calls, report.failures, report.slow
        rows = {}
    if report.order != 0.0:
        term, is_open, openings = term + 1.0, report.order, 0.0
        until, met, holder, held, rows = 0.0, 0.0, "", 0.0, {}
        why = 0.0, 0.0, 0.0
    if is_open == FORCED:
        until = now + DAY
    if holder != "" and (now >= held or held - now > LONGEST_RIGHT):
        holder, held = "", 0.0
    if report.term == term:
        mine = holder in ("", report.id)
        if is_open == OPEN and mine and report.probed != 0.0:
            term, holder, held, met, rows = term + 1.0, "", 0.0, 0.0, {}
            if report.probed > 0.0:
                is_open, openings, until = CLOSED, 0.0, 0.0
            else:
                openings, until = openings + 1.0, now + report.open_for
        elif is_open <= CLOSED:
            told = [row.at for row in rows.values() if 0.0 <= now - row.at < row.life]
            if not told:
                until = now + ASSEMBLING
            elif until <= now and max(told) < until - SETTLING:
                until = now + SETTLING
            rows[report.id] = Row(
                now,
                report.life,
                report.calls,
                report.failures,
                report.slow,
                report.failing,
            )
    calls = failures = slow = failing = members = 0.0
    for member, row in list(rows.items()):
        age = now - row.at
        if age < 0.0 or age >= row.life or row.calls == 0.0:
            del rows[member]
        else:
            calls, failures, slow = (
                calls + row.calls,
                failures + row.failures,
                slow + row.slow,
            )
            failing, members = failing + row.failing, members + 1.0
    if is_open <= CLOSED:
        enough = calls > 0.0 and calls >= report.minimum
        shares = enough and (
            failures / calls >= report.rate or slow / calls >= report.slow_rate
        )
        assembling = 0.0 < until - now <= ASSEMBLING
        majority = failing >= 2.0 and failing * 2.0 > members
        if not (shares and majority):
            met = 0.0
        elif met == 0.0 or met > now:
            met = now
        elif now - met >= SETTLING and report.failing == 1.0 and not assembling:
            term, is_open, openings = term + 1.0, OPEN, openings + 1.0
            until, met, rows = now + report.open_for, 0.0, {}
            why = calls, failures, slow
    elif report.right > 0.0 and report.term == term and holder in ("", report.id):
        holder, held = report.id, now + min(report.right, LONGEST_RIGHT)
    if is_open == OPEN:
        calls, failures, slow = why
    return (
        Assembly(term, is_open, openings, until, met, holder, held, *why, rows),
        Verdict(
            term,
            is_open,
            openings,
            until - now,
            1.0 if holder == report.id and is_open == OPEN else 0.0,
            calls,
            failures,
            slow,
            failing,
            members,
        ),
    )
