"""Let a crowd that wants the same thing at once ask for it once.

When a popular page drops out of a cache, all clients ask for it at once.
`Coalesce` sends one request, and gives all of them its result: the value, or
each an error of its own. Nothing is kept afterwards.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from resilient import Coalesce, Pipeline, Timeout

asked: Counter[str] = Counter()


@Pipeline(Coalesce(), Timeout(1))
async def page(name: str) -> str:
    """Render a page, which takes a while."""
    asked[name] += 1
    await asyncio.sleep(0.05)
    if name == "shop":
        raise ConnectionError("the shop is closed")
    return f"<h1>{name}</h1>"


class Catalogue:
    """Methods have to say what tells their calls apart."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.asked = 0

    def key_of(self, number: int) -> tuple[str, int]:
        """Tell which titles are the same, in whatever catalogue object."""
        return self.language, number

    @Coalesce(key=key_of)
    async def title(self, number: int) -> str:
        """Find the title of a product."""
        self.asked += 1
        await asyncio.sleep(0.05)
        return f"{self.language} title {number}"


async def ask() -> None:
    """Ask a hundred times at once: for a value, for an error, and impatiently."""
    pages = await asyncio.gather(*(page("home") for _ in range(100)))
    print(f"{len(pages)} answers, rendered {asked['home']} time")
    await page("home")
    print(f"later another: rendered {asked['home']} times, for nothing was kept")

    failed = asyncio.gather(*(page("shop") for _ in range(100)), return_exceptions=True)
    errors = set(await failed)
    print(f"{len(errors)} errors, rendered {asked['shop']} time: {errors.pop()!r}")

    first, second = (asyncio.create_task(page("news")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    print("the first caller left; the second, who had joined it, got", await second)
    print(f"  rendered {asked['news']} time")

    german, french = Catalogue("German"), Catalogue("French")
    asked_for = [(each, number) for each in (german, french) for number in (1, 2, 1, 2)]
    titles = await asyncio.gather(*(each.title(number) for each, number in asked_for))
    print(f"{len(titles)} titles, looked up {german.asked + french.asked} times")


def main() -> None:
    """Ask, on asyncio."""
    asyncio.run(ask())


if __name__ == "__main__":
    main()
