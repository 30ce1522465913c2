"""For tests: virtual time, and switches for code that the library decorates.

Nothing here is for production: all of it acts on the whole process.
"""

from __future__ import annotations

from resilient.testing._memory_store import MemoryStore
from resilient.testing._switches import attempts, instant, off, reset_all
from resilient.testing._virtual_clock import VirtualClock, VirtualTimeError
from resilient.testing._virtual_time import virtual_time

__all__ = [
    "MemoryStore",
    "VirtualClock",
    "VirtualTimeError",
    "attempts",
    "instant",
    "off",
    "reset_all",
    "virtual_time",
]
