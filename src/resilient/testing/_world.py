"""A `World` to simulate in: the process in virtual time, and not observed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from resilient._calls import call as call_module
from resilient._events.listeners import global_listeners
from resilient._runtimes.current import running_on
from resilient._runtimes.simulated import World
from resilient.testing._virtual_clock import VirtualClock

W = TypeVar("W", bound=World)


@contextmanager
def world(seed: int, make: Callable[[VirtualClock], W]) -> Generator[W]:
    """Put the process on the clock of a new world.

    Async calls that are made in it are found to run there; nothing of them is seen by
    who observes the process.

    Args:
        seed: Seeds the library's random source.
        make: Makes it on that clock.

    Raises:
        VirtualTimeError: Virtual time is running already.
    """
    clock = VirtualClock(seed, looped=True)
    clock.install()
    try:
        made = make(clock)
        with _unobserved(), running_on(made):
            yield made
    finally:
        clock.uninstall()


@contextmanager
def _unobserved() -> Generator[None]:
    """Keep what is simulated from who observes the process."""
    observe, call_module.observe = call_module.observe, None
    listeners = list(global_listeners)
    global_listeners.clear()
    try:
        yield
    finally:
        call_module.observe = observe
        global_listeners[:0] = listeners
