"""`virtual_time`: one name for every way into virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

from resilient._runtimes.sync import loop_runs_here
from resilient.testing._virtual_clock import (
    VirtualClock,
    VirtualTimeError,
    refuse_nesting,
)

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTime:
    """Runs code on a clock that jumps to the next event when nothing runs.

    An hour of retries takes milliseconds, and repeats exactly: the seed sets
    the library's random source, and on trio the order of tasks as well. Time
    starts at 0.0 seconds. While it is virtual, it is so for the whole process,
    and put back afterwards, however the code ends.

    ============================================ ==============================
    ``with virtual_time(seed=1) as clock:``       sync code of this thread
    ``virtual_time.run(main, backend="trio")``    an async function
    ``virtual_time.loop_factory``                 plugins that ask for a loop
    ``virtual_time.anyio_backend("asyncio")``     anyio and its pytest plugin
    ============================================ ==============================

    In sync code only what the library waits for is virtual: `time.sleep` of
    your own is not. In async code it is everything: the library's waits,
    `asyncio.sleep`, `anyio.sleep`, `trio.sleep`, timeouts, timers. Real I/O is
    looked at before each jump, and the clock does not jump while a worker
    thread runs. It does jump while another process or machine takes its time.
    """

    def __call__(self, seed: int = 1) -> SyncVirtualTime:
        """Put the sync code of a ``with`` block into virtual time.

        Threads that the library starts belong to it: time waits for them.
        Threads of your own that sleep through the library take part as well;
        while one of them runs, time gives it some milliseconds to come back.

        Args:
            seed: Seeds the library's random source.

        Raises:
            VirtualTimeError: Entered inside other virtual time, or on a thread
                that runs an event loop. Inside the block: the thread waits for
                something that cannot come.
        """
        return SyncVirtualTime(seed)

    def run(
        self,
        main: Callable[[*Ts], Coroutine[Any, Any, T]],
        *args: *Ts,
        backend: Literal["asyncio", "trio"] = "asyncio",
        seed: int = 1,
    ) -> T:
        """Run an async function in virtual time and return its result.

        Args:
            main: The async function.
            args: What it is called with.
            backend: The library whose fresh event loop runs it. Not uvloop:
                its clock cannot be replaced.
            seed: Seeds the library's random source, and the order of trio's
                tasks.

        Raises:
            ValueError: The backend is none of these.
            VirtualTimeError: No task can run and nothing is scheduled: the
                text names each task and the line on which it waits. Or virtual
                time, or an event loop of this thread, is running already.
        """
        check_backend(backend)
        refuse_inside_loop("virtual_time.run()")
        refuse_nesting()
        if backend == "trio":
            return run_trio(main, args, seed)
        import asyncio

        with asyncio.Runner(loop_factory=lambda: self.loop_factory(seed)) as runner:
            return runner.run(main(*args))

    def loop_factory(self, seed: int = 1) -> asyncio.AbstractEventLoop:
        """Return a new asyncio event loop that runs in virtual time.

        To be given, uncalled, to whatever takes a loop factory:
        ``asyncio.Runner(loop_factory=virtual_time.loop_factory)``.

        Args:
            seed: Seeds the library's random source.
        """
        from resilient.testing._asyncio_clock import VirtualEventLoop

        return VirtualEventLoop(seed)

    def anyio_backend(
        self, name: Literal["asyncio", "trio"], *, seed: int = 1
    ) -> tuple[str, dict[str, Any]]:
        """Return backend and options for anyio's ``anyio_backend`` fixture.

        Args:
            name: The backend.
            seed: As in `run`; each event loop starts with it anew.

        Raises:
            ValueError: The backend is none of these.
        """
        check_backend(name)
        if name == "trio":
            from resilient.testing._trio_clock import TrioClock

            return name, {"clock": TrioClock(seed)}
        return name, {"loop_factory": lambda: self.loop_factory(seed)}

    def __repr__(self) -> str:
        return "resilient.testing.virtual_time"


class SyncVirtualTime:
    """What ``with virtual_time():`` enters; see there. Used once."""

    def __init__(self, seed: int) -> None:
        self._clock = VirtualClock(seed)

    def __enter__(self) -> VirtualClock:
        refuse_inside_loop("`with virtual_time()`")
        self._clock.install()
        return self._clock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clock.uninstall()


def run_trio(
    main: Callable[[*Ts], Coroutine[Any, Any, T]], args: tuple[*Ts], seed: int
) -> T:
    """Run an async function on trio in virtual time."""
    import trio

    from resilient.testing._trio_clock import TrioClock

    clock = TrioClock(seed)
    try:
        return trio.run(main, *args, clock=clock)
    except BaseException as error:
        # NB: nurseries wrap it in groups, and trio in an internal error when
        # the main task could not take it.
        if clock.error is None or clock.error is error:
            raise
        raise clock.error from error


def check_backend(name: str) -> None:
    """Refuse a backend whose clock cannot be replaced."""
    if name in ("asyncio", "trio"):
        return
    hint = ": uvloop's clock cannot be replaced" if "uvloop" in name else ""
    raise ValueError(f"`backend` must be 'asyncio' or 'trio', got {name!r}{hint}")


def refuse_inside_loop(what: str) -> None:
    """Refuse to make time virtual under an event loop that runs in real time."""
    if loop_runs_here():
        raise VirtualTimeError(
            f"{what} cannot work on a thread that runs an event loop: run the loop"
            " itself in virtual time, with virtual_time.run(), .loop_factory or"
            " .anyio_backend()"
        )


virtual_time: VirtualTime = VirtualTime()
