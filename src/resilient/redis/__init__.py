"""One limit for the whole fleet, through Redis or Valkey.

`RedisStore` is what policies are given as ``shared=``. It needs redis-py:
``pip install resilient-pipeline[redis]``.

May import: `_events`, `_machines`, `_sharing`, `_values`.
"""

from __future__ import annotations

try:
    from resilient.redis._store import RedisStore
except ModuleNotFoundError as _error:
    _error.add_note("resilient.redis needs redis: install resilient-pipeline[redis]")
    raise

__all__ = ["RedisStore"]
