"""Clients that try nothing twice, of redis-py or valkey-py."""

from __future__ import annotations

import copy
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilient._sharing.store import TIMEOUT

__all__ = ["client_for", "is_cluster", "without_retries"]


def client_for(url: str) -> Any:
    """Return a client for a URL.

    Raises:
        TypeError, ValueError: It is none.
    """
    if not isinstance(url, str):
        raise TypeError(f"`url` must be a string, got an object of {type(url)}")
    try:
        # Its keywords are not typed.
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        # NB: without the URL.
        raise ValueError(f"`url` is none that redis-py knows: {error}") from None


def is_cluster(client: object) -> bool:
    """Whether it is a synchronous client of a cluster."""
    return hasattr(client, "nodes_manager") and not hasattr(client, "__aenter__")


def without_retries(client: Any) -> Any:
    """Return a client like this one whose connections try nothing twice.

    Raises:
        TypeError: It is no synchronous client of one server.
    """
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise TypeError(
            "`client` must be a synchronous client of redis-py or valkey-py, got an"
            f" object of {type(client)}"
        )
    changed = copy.copy(client)
    arguments = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        **pool.connection_kwargs,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        # NB: values of a cache are bytes.
        "decode_responses": False,
    }
    arguments.pop("retry_on_error", None)
    changed.connection_pool = _pool_like(pool, arguments)
    return changed


def _pool_like(pool: Any, arguments: dict[str, Any]) -> Any:
    changed = copy.copy(pool)
    changed.connection_kwargs = arguments
    changed.reset()
    return changed
