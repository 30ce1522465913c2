"""Let one dependency take some of your capacity, never all of it.

A `Bulkhead` lets so many calls run at once. A few more may wait in line, for
a limited time; everybody else is told at once, while there is still time to
do something else. The same object counts for every task and every thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from resilient import Bulkhead, BulkheadFullError


class Printer:
    """A slow device that jams when more than two jobs reach it at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0

    async def print_page(self, page: int) -> str:
        """Print one page, in a tenth of a second."""
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.1)
        self.running -= 1
        return f"page {page}"


async def print_all(printer: Printer, bulkhead: Bulkhead, pages: int) -> None:
    """Send all pages at the same moment."""

    async def send(page: int) -> str:
        try:
            await bulkhead.acall(printer.print_page, page)
        except BulkheadFullError as error:
            return "had to wait too long" if error.waited else "found the line full"
        return "printed"

    outcomes = Counter(await asyncio.gather(*map(send, range(pages))))
    print(f"{bulkhead!r}, {pages} pages at once:")
    for outcome, number in outcomes.items():
        print(f"  {number} {outcome}")
    print(f"  at most {printer.most} at the same time")


def main() -> None:
    """Compare no line, a line, and a line for the impatient."""
    for bulkhead in (
        Bulkhead(2),
        Bulkhead(2, max_queue=4),
        Bulkhead(2, max_queue=4, max_wait=0.15),
    ):
        asyncio.run(print_all(Printer(), bulkhead, pages=8))

    # How many slots? Little's law, with room for the ups and downs of chance:
    print(f"50 calls a second of 0.2 s each need {Bulkhead.for_load(50, 0.2)!r}")


if __name__ == "__main__":
    main()
