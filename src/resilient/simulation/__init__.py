"""See what a configuration does in an outage, before the outage does.

The library's own policies run on an event heap, in virtual time; the load, the
dependency and what happens to them are modelled. A scenario of five minutes with
eighty thousand requests takes a second or two.

While a simulation runs, the whole process is in virtual time: it is for tests, for a
script or for the command line, not for a process that serves requests.
"""

from __future__ import annotations

from resilient.simulation._chance import (
    Distribution,
    constant_time,
    exponential_time,
    lognormal_time,
    normal_time,
    pareto_time,
    quantile_time,
    uniform_time,
)
from resilient.simulation._choose import Setting, choose
from resilient.simulation._dependency import Dependency
from resilient.simulation._events import (
    Capacity,
    Failing,
    Hang,
    Happening,
    Outage,
    Refusal,
    Shard,
    Slowdown,
    Surge,
)
from resilient.simulation._files import scenarios
from resilient.simulation._record import Run
from resilient.simulation._result import Recovery, Result, save, table
from resilient.simulation._scenario import Scenario
from resilient.simulation._simulate import compare, simulate, sweep
from resilient.simulation._trace import Trace, read_trace

__all__ = [
    "Capacity",
    "Dependency",
    "Distribution",
    "Failing",
    "Hang",
    "Happening",
    "Outage",
    "Recovery",
    "Refusal",
    "Result",
    "Run",
    "Scenario",
    "Setting",
    "Shard",
    "Slowdown",
    "Surge",
    "Trace",
    "choose",
    "compare",
    "constant_time",
    "exponential_time",
    "lognormal_time",
    "normal_time",
    "pareto_time",
    "quantile_time",
    "read_trace",
    "save",
    "scenarios",
    "simulate",
    "sweep",
    "table",
    "uniform_time",
]
