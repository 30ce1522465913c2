"""Explore interleavings: sell the last ticket once, in whatever order buyers come.

The first shop looks before the buyer pays, and sells after. The second reserves, and
forgets a buyer who is cancelled. The third is right.
"""

from __future__ import annotations

from resilient import Bulkhead
from resilient.testing import ExploredRun, explore


class Hasty:
    """Sells what was there before the buyer paid."""

    def __init__(self, run: ExploredRun) -> None:
        self.run = run
        self.till = Bulkhead(1, max_queue=9)
        self.left = 1
        self.sold = 0

    async def pay(self) -> None:
        """Pay at the till, one buyer at a time."""
        await self.till.acall(self.run.sleep, 1)

    async def buy(self) -> None:
        """Buy a ticket, if there is one."""
        if self.left > 0:
            await self.pay()
            self.left -= 1
            self.sold += 1


class Forgetful(Hasty):
    """Reserves first, and gives back where paying fails."""

    gives_back: type[BaseException] = Exception

    async def buy(self) -> None:
        """Buy a ticket, if there is one."""
        if self.left > 0:
            self.left -= 1
            try:
                await self.pay()
            except self.gives_back:
                self.left += 1
                raise
            self.sold += 1


class Right(Forgetful):
    """Gives back in every way out: a cancellation is no `Exception`."""

    gives_back = BaseException


def main() -> None:
    """Explore two buyers of one ticket; the second comes as the first has paid."""
    for kind in (Hasty, Forgetful, Right):

        async def scenario(run: ExploredRun, kind: type[Hasty] = kind) -> None:
            shop = kind(run)

            async def later() -> None:
                await run.sleep(1)
                await shop.buy()

            run.start(shop.buy)
            run.start(later)
            await run.ended()
            assert (shop.left, shop.sold) in [(1, 0), (0, 1)], vars(shop)

        try:
            print(f"{kind.__name__}: nothing found in", explore(scenario))
        except AssertionError as error:
            print(f"{kind.__name__}:", *error.__notes__)


if __name__ == "__main__":
    main()
