"""Supervision: workers that are restarted when they crash.

::

    async with Supervisor() as workers:
        workers.start(consume, queue, name="consumer")

On asyncio and trio in tasks, in plain code in threads.
"""

from __future__ import annotations

from resilient._supervision.runs import Stopping
from resilient._supervision.supervisor import Supervisor

__all__ = ["Stopping", "Supervisor"]

for _thing in (Stopping, Supervisor):
    _thing.__module__ = __name__
