"""The process and its host: what it lacks, and what it sheds then.

::

    host = HostMonitor()
    pipeline = Pipeline(Timeout(30), LoadShedder(host), AdaptiveConcurrency(Gradient()))

    async with Supervisor() as workers:
        workers.start(host.run, name="host")

A limit sees calls that are slow. What makes all of them slow at once, an event loop
that is blocked, a processor that is used up, shows here first. psutil is used where it
is installed (extra ``host``); on Linux the files below ``/proc`` do as well.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Never, Protocol, cast

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._errors.errors import ThrottledError, format_seconds
from resilient._errors.warnings import warn
from resilient._machines.overload import Overload
from resilient._observing.host import HostReader, HostReading
from resilient._observing.shown import show
from resilient._policy.admission import Admission, AdmissionPolicy
from resilient._runtimes import clock
from resilient._values.checks import number
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["HostMonitor", "LoadShedder", "OverloadedError"]

_SYSTEM_EVERY = 1.0
"""Seconds between two looks at what the system tells."""

_PEAK_WINDOW = 10.0
"""Seconds: a collection of metrics sees one moment, and a peak lasts no longer."""


class _Stopping(Protocol):
    """A `threading.Event`, or a `resilient.supervision.Stopping`."""

    def wait(self, timeout: float) -> bool: ...


class HostMonitor:
    """Measure how late the event loop is, and what the process uses of its host.

    It measures while `run` runs, a task that you start, or `watch`, a thread::

        async with Supervisor() as workers:
            workers.start(host.run, name="host")

    Meanwhile `health` has what it measures, and metrics have it as gauges named
    ``resilient.host.…``.

    Args:
        every: Seconds between two measurements of the lag, which is found to that
            precision: default 0.05. The system is asked once a second.
        name: Name in `health` and metrics.

    Raises:
        TypeError, ValueError: An argument has no meaning.

    Source: Node.js, ``monitorEventLoopDelay``, for the lag.
    """

    def __init__(
        self, *, every: float | timedelta = 0.05, name: str | None = "host"
    ) -> None:
        self.every: float = seconds_argument("every", every, zero=False)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a str or None, got {name!r}")
        self._name = name
        self._reader = HostReader.of_this_host()
        self._system = HostReading()
        self._system_at = -inf
        # When the loop is to be here again; infinite: nothing measures.
        self._due = inf
        self._lag = 0.0
        # The largest lag of this window and of the one before.
        self._peaks = (0.0, 0.0)
        self._peak_from = -inf
        self.readings: int = 0
        show(self)

    def __repr__(self) -> str:
        return f"HostMonitor(every={self.every!r}, name={self._name!r})"

    @property
    def name(self) -> str | None:
        """Name in `health` and metrics; None while nothing measures."""
        return self._name if self.is_measuring else None

    @property
    def is_measuring(self) -> bool:
        """Whether `run` or `watch` runs."""
        return self._due != inf

    @property
    def lag(self) -> float:
        """Seconds by which the loop is late now, or was the last time; 0: unknown."""
        return self.lag_at(clock.now())

    @property
    def cpu(self) -> float | None:
        """Share of the processor time that was used, of late, 0 to 1.

        That of the control group where it has a quota, as in a container, else that
        of the machine. None: unknown.
        """
        return self._system.cpu

    @property
    def memory(self) -> float | None:
        """Share of the memory limit that this process takes; None: unknown."""
        return self._system.memory_share

    @property
    def open_files(self) -> float | None:
        """Share of the files that this process may open; None: unknown."""
        return self._system.open_files_share

    def status(self) -> dict[str, Any]:
        """Return what was measured, for `health` and metrics.

        The lag is the largest of the last 10 to 20 s.
        """
        system = self._system
        return {
            "host.loop_lag": max(*self._peaks, self.lag),
            "host.cpu": system.cpu,
            "host.memory": system.memory,
            "host.memory_share": system.memory_share,
            "host.open_files": system.open_files,
            "host.open_files_share": system.open_files_share,
        }

    def lag_at(self, now: float) -> float:
        """Return `lag`, at a moment on the clock of `time.monotonic`."""
        # NB: not only the last measurement: what waited while the loop was blocked
        # runs before the next one.
        late = now - self._due
        return late if late > self._lag else self._lag

    async def run(self) -> Never:
        """Measure the event loop that this runs on, until it is cancelled.

        Raises:
            RuntimeError: It measures already.
        """
        import anyio

        self._begin()
        try:
            while True:
                await anyio.sleep(max(0.0, self._due - clock.now()))
                self._measure()
        finally:
            self._end()

    def watch(self, stopping: _Stopping) -> None:
        """Measure in this thread, until ``stopping.wait(seconds)`` is true.

        The lag is then that of a thread: of the interpreter's lock, and of the
        processor.

        Raises:
            RuntimeError: It measures already.
        """
        self._begin()
        try:
            while not stopping.wait(max(0.0, self._due - clock.now())):
                self._measure()
        finally:
            self._end()

    def _begin(self) -> None:
        if self.is_measuring:
            raise RuntimeError(f"{self!r} measures already: make one for each loop")
        self._look_at_system(clock.now())
        # NB: the look itself is no lag, and may take longer than `every`.
        self._due = clock.now() + self.every

    def _end(self) -> None:
        self._due, self._lag, self._peaks = inf, 0.0, (0.0, 0.0)
        self._system = HostReading()
        self.readings += 1

    def _measure(self) -> None:
        now = clock.now()
        self._lag = max(0.0, now - self._due)
        if now - self._peak_from >= _PEAK_WINDOW:
            self._peaks, self._peak_from = (self._peaks[1], 0.0), now
        self._peaks = self._peaks[0], max(self._peaks[1], self._lag)
        if now - self._system_at >= _SYSTEM_EVERY:
            self._look_at_system(now)
        self.readings += 1
        self._due = clock.now() + self.every  # as in `_begin`

    def _look_at_system(self, now: float) -> None:
        self._system, self._system_at = self._reader.read(now), now


class OverloadedError(ThrottledError):
    """The process lacks something, and sheds calls that are less important.

    Attributes:
        policy: Name of the shedder.
        retry_after: Always None: when it will be over is not known.
        priority: Class of the call, as in "batch".
        signal: What the process lacks: "loop_lag", "cpu", "memory" or "open_files".
        value: What was measured: seconds, or a share.
        threshold: From where calls are shed.
    """

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        priority: str = "normal",
        signal: str = "loop_lag",
        value: float = 0.0,
        threshold: float = 0.0,
    ) -> None:
        super().__init__(policy, retry_after)
        self.args: tuple[Any, ...] = (
            policy,
            retry_after,
            priority,
            signal,
            value,
            threshold,
        )
        self.priority = priority
        self.signal = signal
        self.value = value
        self.threshold = threshold

    def _complaint(self) -> str:
        if self.signal == "loop_lag":
            told = (
                f"the event loop is {format_seconds(self.value)} late, and more than"
                f" {format_seconds(self.threshold)} is overload"
            )
        else:
            told = (
                f"{self.signal.replace('_', ' ')} {self.value:.0%} used, and more than"
                f" {self.threshold:.0%} is overload"
            )
        return f"load shedder {self.policy!r} refuses {self.priority} calls: {told}"


class LoadShedder(AdmissionPolicy):
    """Refuse the least important calls while the process lacks something.

    Each signal has a range: from its first number on batch calls are shed, a third
    further sheddable ones, two thirds further normal ones, too; critical ones never
    (see `priority`). The worst signal counts. A signal that the system does not tell
    counts for nothing, and None switches one off.

    A class is shed with the first measurement that asks for it, and let in again when
    for `hold` seconds none came within four fifths of that: one class after the
    other.

    Put it outside of limits and inside of a total `Timeout`; one or many may use a
    monitor.

    Args:
        host: The monitor, which you start: while it does not measure, nothing is
            shed.
        loop_lag: Seconds by which the event loop is late. Default 0.1 to 0.5: what a
            user notices, to what is a server's usual time limit for an answer. At
            0.2 s batch calls alone are shed.
        cpu: Share of the processor time, of the control group or machine. That all of
            it is used need not be overload, so that batch calls alone are shed for
            it: 1.0 is less than a third into the default, 0.95 to 1.2.
        memory: Share of the memory limit that this process takes. With several
            processes in a container give each its part.
        open_files: Share of the files that this process may open.
        hold: Seconds.
        name: Name in errors and events.

    Raises:
        OverloadedError: The call is shed; also a `ThrottledError`.
        TypeError, ValueError: An argument has no meaning.

    Source: Envoy, "Overload manager".
    """

    __slots__ = (
        "_calm_lag",
        "_lock",
        "_looked_at",
        "_overload",
        "_warned",
        "cpu",
        "hold",
        "host",
        "loop_lag",
        "memory",
        "open_files",
    )

    holds_streams = False

    learns = False

    weighs = False

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "OverloadedError", "enforced"),
    )

    def __init__(
        self,
        host: HostMonitor,
        *,
        loop_lag: tuple[float, float] | None = (0.1, 0.5),
        cpu: tuple[float, float] | None = (0.95, 1.2),
        memory: tuple[float, float] | None = (0.85, 0.97),
        open_files: tuple[float, float] | None = (0.8, 0.95),
        hold: float | timedelta = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not isinstance(host, HostMonitor):
            raise TypeError(f"`host` must be a HostMonitor, got {host!r}")
        self.host: HostMonitor = host
        self.loop_lag: tuple[float, float] | None = _range("loop_lag", loop_lag)
        self.cpu: tuple[float, float] | None = _range("cpu", cpu)
        self.memory: tuple[float, float] | None = _range("memory", memory)
        self.open_files: tuple[float, float] | None = _range("open_files", open_files)
        self.hold: float = seconds_argument("hold", hold)
        ranges = {
            name: found
            for name, found in (
                ("loop_lag", self.loop_lag),
                ("cpu", self.cpu),
                ("memory", self.memory),
                ("open_files", self.open_files),
            )
            if found is not None
        }
        self._overload = Overload(ranges, self.hold)
        self._calm_lag = inf if self.loop_lag is None else self.loop_lag[0]
        self._lock = Lock()
        self._looked_at = -1
        self._warned = False

    def admit(self, call: Call) -> Admission:
        level = self._level()
        if level <= call.priority:
            return None
        cause = self._overload.cause
        assert cause is not None
        return OverloadedError(
            self.error_name(call), None, call.priority.name.lower(), *cause
        )

    def settle(self, permit: None, outcome: Outcome | None) -> None:
        """Do nothing: how a call went says nothing here."""

    def status(self) -> dict[str, Any]:
        return {"shedder.level": self._level()}

    def reset(self) -> None:
        """Shed nothing, until the next measurement that asks for it."""
        self._lock.run(self._overload.reset)

    def is_restrictive(self) -> bool:
        return self._level() > 0

    def is_pristine(self) -> bool:
        return self._level() == 0

    def _level(self) -> int:
        host, overload = self.host, self._overload
        now = clock.now()
        # NB: without the lock: who misses a change is one call late.
        if (
            not overload.level
            and self._looked_at == host.readings
            and host.lag_at(now) < self._calm_lag
        ):
            return 0
        if not (host.is_measuring or self._warned):
            self._warned = True
            warn(
                f"{host!r} of a LoadShedder does not measure, so that nothing is shed:"
                " start its run() in a task of the server, or watch() in a thread"
            )
        try:
            return self._lock.run(self._look_locked, now)
        except ReenteredError:
            # It began in the middle of a look, on the same thread.
            return overload.level

    def _look_locked(self, now: float) -> int:
        host = self.host
        self._looked_at = host.readings
        values = {
            "loop_lag": host.lag_at(now),
            "cpu": host.cpu,
            "memory": host.memory,
            "open_files": host.open_files,
        }
        return self._overload.look(now, values)


def _range(name: str, found: object) -> tuple[float, float] | None:
    if found is None:
        return None
    pair = cast("tuple[object, ...]", found)
    if not isinstance(found, tuple) or len(pair) != 2:
        raise TypeError(
            f"`{name}` must be a pair of numbers, where shedding begins and where it"
            f" is complete, or None, got {found!r}"
        )
    begin, end = (number(name, one, minimum=0) for one in pair)
    if begin >= end:
        raise ValueError(f"`{name}` must rise, got {found!r}")
    return begin, end


for _thing in (HostMonitor, LoadShedder, OverloadedError):
    _thing.__module__ = __name__
