"""What tests ask of the cycle collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Fail if what happens inside leaves anything to the cycle collector."""
    # NB: what has finalizers takes more than one round, other tests' garbage too.
    while gc.collect():
        pass
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        found = gc.collect()
        left = [type(found).__name__ for found in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [] == left
    assert 0 == found
