"""What all tests share."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from resilient._calls import judging
from resilient._errors import warnings as resilient_warnings
from resilient._events import listeners
from resilient._events.counters import UNCOUNTED, forget_all
from resilient._runtimes import clock

# No deadline for examples, nor for drawing them: a slow machine is no bug. In CI
# every run draws the same examples, so that a failure is the change's; elsewhere
# each run looks somewhere new.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "repeat",
    settings.get_profile("search"),
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.load_profile("repeat" if "CI" in os.environ else "search")


# Nothing in the library is to read local time. What does shows in this zone, which
# is no whole number of hours from UTC, as the time zone of CI is none.
os.environ["TZ"] = "NPT-5:45"
if hasattr(time, "tzset"):
    time.tzset()


@settings(max_examples=1, database=None)
@given(strategies.none())
def draw_once(nothing: None) -> None:
    """Do nothing."""


def pytest_collection_finish() -> None:
    """Have no collection look again at what lasts as long as the run."""
    # NB: pytest and its plugins are a million objects, and tests that count what
    # is left to the collector collect hundreds of times.
    # Hypothesis makes its random source first: it warns where the collector does
    # not find who refers to that, and what is frozen is not found.
    draw_once()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _a_process_of_its_own() -> Iterator[None]:
    """Have no test see what another counted or told once, or left to listen."""
    forget_all()
    # A call that a test makes by hand counts there.
    UNCOUNTED.originals = UNCOUNTED.successes = 0
    UNCOUNTED.counts.clear()
    listeners._logged.clear()
    judging._told.clear()
    resilient_warnings._warned.clear()
    yield
    assert [] == listeners.global_listeners
    assert logging.NOTSET == logging.root.manager.disable
    assert clock.now is clock.real_now
    assert clock.skip is None
