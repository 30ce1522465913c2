"""One limit for the whole fleet, through Redis or Valkey.

`RedisStore` is what policies are given as ``shared=``. It needs redis-py:
``pip install resilient-pipeline[redis]``.
"""

from __future__ import annotations

from resilient.redis._store import RedisStore

__all__ = ["RedisStore"]
