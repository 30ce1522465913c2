"""What all tests share."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

from resilient._events.counters import forget_unused

# No deadline: a slow machine is no bug. In CI every run draws the same examples,
# so that a failure is the change's; elsewhere each run looks somewhere new.
settings.register_profile("search", deadline=None)
settings.register_profile(
    "repeat", deadline=None, derandomize=True, database=None, print_blob=True
)
settings.load_profile("repeat" if "CI" in os.environ else "search")


def pytest_collection_finish() -> None:
    """Have no collection look again at what lasts as long as the run."""
    # NB: pytest and its plugins are a million objects, and tests that count what
    # is left to the collector collect hundreds of times.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _counts_of_its_own() -> None:
    """Have no test see what was counted for a name in another."""
    forget_unused()
