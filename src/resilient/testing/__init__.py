"""For tests: virtual time, orders of tasks, and switches for decorated code.

Nothing here is for production: all of it acts on the whole process.
"""

from __future__ import annotations

from resilient.testing._explore import Explored, ExploredRun, ExploredTask, explore
from resilient.testing._memory_store import MemoryStore
from resilient.testing._switches import attempts, instant, off, reset_all
from resilient.testing._virtual_clock import VirtualClock, VirtualTimeError
from resilient.testing._virtual_time import virtual_time

__all__ = [
    "Explored",
    "ExploredRun",
    "ExploredTask",
    "MemoryStore",
    "VirtualClock",
    "VirtualTimeError",
    "attempts",
    "explore",
    "instant",
    "off",
    "reset_all",
    "virtual_time",
]
