"""Real servers, for the tests that ask for them by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sharing.servers import Server, engine

from resilient.redis import RedisStore


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that runs for this module."""
    with Server(engine(request.param)) as server:
        yield server


@pytest.fixture
def store(server: Server) -> Iterator[RedisStore]:
    """A store on a server without data, with patience for a loaded machine."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
    with RedisStore(server.url, prefix="shop", patience=20) as store:
        yield store
