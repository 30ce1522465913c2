"""All that can be shared, in one pipeline, on real servers."""

from __future__ import annotations

import anyio
import pytest
from tests.sharing.servers import Server, engine

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    constant,
    health,
)
from resilient.redis import RedisStore

pytestmark = pytest.mark.real


def pipeline(store: RedisStore, name: str) -> Pipeline:
    """Return one process's pipeline."""
    budget = RetryBudget(name="openai", shared=store)
    return Pipeline(
        Retry(ConnectionError, backoff=constant(0.001), budget=budget),
        CircuitBreaker(name="openai", shared=store),
        RateLimiter(500, per=60, name="openai", shared=store),
        Bulkhead(20, name="openai", shared=store),
        name=name,
    )


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_pipeline_of_shared_policies(name: str) -> None:
    """Two processes' worth, in every colour, by one store each."""
    with (
        Server(engine(name)) as server,
        RedisStore(server.url, prefix="shop", patience=20) as store,
        RedisStore(server.url, prefix="shop", patience=20) as other,
    ):
        # NB: a name of its own, for `health` also shows one that is not collected yet.
        whole = f"openai by {name}"
        one, two = pipeline(store, whole), pipeline(other, whole)
        failures = 2

        def work() -> str:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise ConnectionError
            return "ok"

        assert ["ok", "ok"] == [one.call(work), two.call(work)]

        async def acall() -> None:
            assert await two.acall(anyio.sleep, 0) is None

        anyio.run(acall, backend="asyncio")
        anyio.run(acall, backend="trio")
        with server.client(decode_responses=True) as client:
            kinds = {key.split(":")[2] for key in client.scan_iter()}
        assert {"bucket", "budget", "circuit", "slots"} == kinds
        stores = [
            policy["shared.store"]
            for policy in health()[whole]["policies"]
            if "shared.store" in policy
        ]
        assert {"up"} == set(stores)
