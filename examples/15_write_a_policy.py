"""Write a policy: refresh a token that was refused, and try once more.

A policy is an ordinary coroutine around a call. It protects plain functions and
coroutines alike, and stands in pipelines with the policies of the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from resilient import Call, Outcome, Pipeline, Policy, Retry, Trait

Proceed = Callable[[Call], Awaitable[Outcome]]


class Reauthenticate(Policy):
    """Refresh the token when a call is not permitted, and call once more."""

    traits = Trait.RERUNS

    def __init__(self, refresh: Callable[[], object], *, name: str | None = None):
        super().__init__(name)
        self.refresh = refresh

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        """Proceed, and once more with a new token where that may help."""
        outcome = await proceed(call)
        if not isinstance(outcome.error, PermissionError):
            return outcome
        outcome.discard()
        try:
            self.refresh()
        except Exception as error:
            return Outcome(None, error)
        return await proceed(call)


class Shop:
    """A service whose tokens are good for two calls."""

    def __init__(self) -> None:
        self.token = 0
        self.good_for = 2

    def refresh(self) -> None:
        """Fetch a new token."""
        self.token += 1
        self.good_for = 2
        print(f"  token {self.token}")

    def order(self, article: str) -> str:
        """Order something."""
        if self.good_for == 0:
            raise PermissionError("the token has expired")
        self.good_for -= 1
        return f"{article}, ordered with token {self.token}"


def main() -> None:
    """Order from a plain function, and from a coroutine in a pipeline."""
    shop = Shop()
    order = Reauthenticate(shop.refresh)(shop.order)
    for article in ("tea", "milk", "sugar"):
        print(order(article))

    @Pipeline(Retry(ConnectionError), Reauthenticate(shop.refresh))
    async def order_later(article: str) -> str:
        return shop.order(article)

    for article in ("cups", "spoons"):
        print(asyncio.run(order_later(article)))


if __name__ == "__main__":
    main()
