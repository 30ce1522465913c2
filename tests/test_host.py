"""What the process and its host tell, and which calls are shed by it."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.interrupts import amid_change

from resilient import Pipeline, ResilientWarning, ThrottledError, health, priority
from resilient._observing.host import HostReader, HostReading
from resilient._runtimes import clock
from resilient.host import HostMonitor, LoadShedder, OverloadedError
from resilient.telemetry._snapshot import snapshot

CLASSES = ("batch", "sheddable", "normal", "critical")
QUIET = HostReading(0.1, 1000, 0.1, 10, 0.1)


class Told:
    """A reader that tells what a test has it tell."""

    def __init__(self) -> None:
        self.reading = QUIET
        self.reads = 0

    def read(self, now: float) -> HostReading:
        self.reads += 1
        return self.reading


def monitor(**options: Any) -> tuple[HostMonitor, Told]:
    """A monitor, and what it is told of the system."""
    host, told = HostMonitor(**options), Told()
    host._reader = told  # type: ignore[assignment]  # of a test's
    return host, told


class Until:
    """Stops a thread's watch after so many waits, each a step of the clock."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def wait(self, timeout: float) -> bool:
        clock.sleep(timeout)
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


async def shed(w: World, policy: Any) -> str:
    """Which classes are refused now, by their initials."""
    found = ""
    for one in CLASSES:
        with priority(one):
            try:
                await w.call(policy, w.sleep, 0)
            except OverloadedError as error:
                assert one == error.priority
                found += one[0]
    return found


# -- The monitor


@in_async_colours
async def test_a_blocked_loop_is_late(w: World) -> None:
    """At once for what runs before the monitor does, and in its status after."""
    host, _ = monitor()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        await anyio.sleep(0.26)
        assert (0.0, True) == (host.lag, host.is_measuring)
        clock.sleep(0.2)  # as `time.sleep`: nothing else runs
        assert pytest.approx(0.16) == host.lag
        await anyio.sleep(0)
        await anyio.sleep(0.01)
        assert pytest.approx(0.16) == host.lag
        await anyio.sleep(0.1)
        assert 0.0 == host.lag
        assert pytest.approx(0.16) == host.status()["host.loop_lag"]
        await anyio.sleep(21)
        assert 0.0 == host.status()["host.loop_lag"]
        tasks.cancel_scope.cancel()

    assert (0.0, False, None) == (host.lag, host.is_measuring, host.cpu)


@in_async_colours
async def test_a_slow_look_at_the_system_is_no_lag(w: World) -> None:
    """The first look may take longer than the time between two measurements."""
    host, told = monitor(every=0.05)
    read = told.read

    def slowly(now: float) -> HostReading:
        clock.sleep(0.3)
        return read(now)

    told.read = slowly  # type: ignore[method-assign]  # a machine under load
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        await anyio.sleep(0.36)
        assert (0.0, True) == (host.lag, host.is_measuring)
        tasks.cancel_scope.cancel()

    assert 2 == host.readings


@in_async_colours
async def test_the_system_is_asked_once_a_second(w: World) -> None:
    """And once at the beginning."""
    host, told = monitor(every=0.05)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        await anyio.sleep(0.01)
        assert (0.1, 0.1, 0.1) == (host.cpu, host.memory, host.open_files)
        await anyio.sleep(3.5)
        assert 4 == told.reads
        tasks.cancel_scope.cancel()


@in_sync
async def test_a_thread_can_be_watched(w: World) -> None:
    """It is late where others had the interpreter."""
    host, _ = monitor(name=None)
    lags: list[float] = []
    host.watch(
        Until(lambda: clock.sleep(0.3), lambda: lags.append(host.lag), lambda: None)
    )

    assert [pytest.approx(0.3)] == lags
    assert False is host.is_measuring


def test_a_monitor_measures_one_loop() -> None:
    """A second one would have its lateness mixed with the first."""
    host, _ = monitor(name=None)
    with pytest.raises(
        RuntimeError, match=r"^HostMonitor\(every=0\.05, name=None\) me"
    ):
        host.watch(Until(lambda: host.watch(Until())))


def test_health_and_metrics_have_what_is_measured() -> None:
    """While it is; by the monitor's name."""
    host, told = monitor(every=0.001, name="worker of test_host")
    told.reading = HostReading(0.25, 4096, 0.5, 12, None)
    found: dict[str, Any] = {}

    def look() -> None:
        found["health"] = health()["worker of test_host"]
        found["points"] = {
            name: point.value
            for name, points in snapshot().items()
            for point in points
            if point.labels == {"monitor": "worker of test_host"}
        }

    host.watch(Until(look))
    assert found["health"] == {
        "host.loop_lag": found["health"]["host.loop_lag"],
        "host.cpu": 0.25,
        "host.memory": 4096,
        "host.memory_share": 0.5,
        "host.open_files": 12,
        "host.open_files_share": None,
    }
    del found["points"]["resilient.host.loop_lag"]
    assert found["points"] == {
        "resilient.host.cpu": 0.25,
        "resilient.host.memory": 4096,
        "resilient.host.memory_share": 0.5,
        "resilient.host.open_files": 12,
    }
    assert "worker of test_host" not in health()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: HostMonitor(every=0), "`every` must be > 0 seconds, got 0"),
        (lambda: HostMonitor(name=1), "`name` must be a str or None, got 1"),  # type: ignore[arg-type]
        (lambda: LoadShedder(1), "`host` must be a HostMonitor, got 1"),  # type: ignore[arg-type]
        (
            lambda: LoadShedder(HostMonitor(name=None), cpu=0.9),  # type: ignore[arg-type]
            "`cpu` must be a pair of numbers, where shedding begins and where it is"
            " complete, or None, got 0.9",
        ),
        (
            lambda: LoadShedder(HostMonitor(name=None), memory=(0.9, 0.9)),
            "`memory` must rise, got (0.9, 0.9)",
        ),
        (
            lambda: LoadShedder(HostMonitor(name=None), loop_lag=(-1, 0.9)),
            "`loop_lag` must be >= 0, got -1",
        ),
    ],
)
def test_arguments_without_a_meaning_are_refused(
    make: Callable[[], object], text: str
) -> None:
    """By name."""
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert text == str(raised.value)


# -- The shedder


@in_async_colours
async def test_a_loop_that_lags_sheds_batch_work_first(w: World) -> None:
    """At 200 ms batch alone, by steps all but critical; let in by steps."""
    host, _ = monitor(every=0.01)
    shedder = LoadShedder(host)
    api = Pipeline(shedder, name="api")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        await anyio.sleep(0.005)
        assert "" == await shed(w, api)
        for blocked, classes in ((0.21, "b"), (0.3, "bs"), (0.5, "bsn")):
            clock.sleep(blocked)
            assert classes == await shed(w, api)
            assert shedder.is_restrictive()
            await anyio.sleep(0.1)
        for classes in ("bsn", "bs", "b", ""):
            assert classes == await shed(w, api)
            await anyio.sleep(1.0)
        assert shedder.is_pristine()
        clock.sleep(0.3)
        assert "bs" == await shed(w, api)
        await anyio.sleep(0.1)
        shedder.reset()
        assert "" == await shed(w, api)
        tasks.cancel_scope.cancel()


@in_every_colour
async def test_what_the_system_lacks_sheds_too(w: World) -> None:
    """Each signal by its range; one that is switched off does not count."""
    host, told = monitor(name=None)
    host._begin()
    shedder = LoadShedder(host, loop_lag=None, hold=0)
    for lack, classes in (
        ({"cpu": 1.0}, "b"),
        ({"cpu": 0.7}, ""),
        ({"memory_share": 0.9}, "bs"),
        ({"open_files_share": 1.2}, "bsn"),
        ({"cpu": None, "memory_share": None, "open_files_share": None}, ""),
    ):
        await w.sleep(2)
        told.reading = QUIET._replace(**lack)
        host._measure()
        for _ in range(2):
            # Its level falls by one class for each look.
            host.readings += 1
            await shed(w, shedder)
        assert classes == await shed(w, shedder), lack
    assert {"shedder.level": 0} == shedder.status()


@in_every_colour
async def test_a_monitor_that_does_not_measure_is_told_of(w: World) -> None:
    """Once: nothing would be shed."""
    host, _ = monitor(name="idle")
    shedder = LoadShedder(host)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert "" == await shed(w, shedder)
        assert "" == await shed(w, shedder)
    assert [ResilientWarning] == [one.category for one in told]
    assert [
        "HostMonitor(every=0.05, name='idle') of a LoadShedder does not measure, so"
        " that nothing is shed: start its run() in a task of the server, or watch() in"
        " a thread"
    ] == [str(one.message) for one in told]


def test_errors_say_what_is_lacking() -> None:
    """With the value, its limit and the class; they survive a pickle."""
    lag = OverloadedError("api", None, "batch", "loop_lag", 0.2134, 0.1)
    files = OverloadedError("api", None, "normal", "open_files", 0.934, 0.8)

    assert isinstance(lag, ThrottledError)
    assert (
        "load shedder 'api' refuses batch calls: the event loop is 0.2134 s late, and"
        " more than 0.1 s is overload"
    ) == str(lag)
    assert (
        "load shedder 'api' refuses normal calls: open files 93% used, and more than"
        " 80% is overload"
    ) == str(pickle.loads(pickle.dumps(files)))


def test_a_look_amid_a_look_is_answered() -> None:
    """By a signal handler, say: with the level as it is."""
    host, _ = monitor(name=None)
    host._begin()
    try:
        shedder = LoadShedder(host)
        host.readings += 1
        with amid_change(shedder):
            assert 0 == shedder.status()["shedder.level"]
    finally:
        host._end()


def test_a_changed_copy_has_the_same_monitor() -> None:
    """And reads like the call that made it."""
    host = HostMonitor(name=None)
    shedder = LoadShedder(host, cpu=None, name="api").with_(hold=2.0)

    assert shedder.host is host
    assert "LoadShedder(HostMonitor(every=0.05, name=None), " in repr(shedder)
    assert "cpu=None" in repr(shedder)


@pytest.mark.real
def test_a_loop_that_is_really_blocked_sheds_batch_work() -> None:
    """On the clock of the system, by what waited meanwhile."""

    async def main() -> dict[str, bool]:
        host, _ = monitor(every=0.01, name=None)
        # NB: without an end of the range for the loop, which lags on a loaded
        # machine by more than it is blocked.
        shedder = LoadShedder(host, loop_lag=(0.15, 1e6))
        served: dict[str, bool] = {}

        async def request(one: str) -> None:
            with priority(one):
                try:
                    served[one] = await shedder.acall(asyncio.sleep, 0, True)
                except OverloadedError:
                    served[one] = False

        measuring = asyncio.create_task(host.run())
        await asyncio.sleep(0.02)
        time.sleep(0.2)
        await asyncio.gather(*map(request, CLASSES))
        measuring.cancel()
        return served

    assert {
        "batch": False,
        "sheddable": True,
        "normal": True,
        "critical": True,
    } == asyncio.run(main())


# -- What the system tells


def files(root: Path, found: Mapping[str, str]) -> Path:
    """A root with these files."""
    for name, text in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PROC = {
    "proc/stat": "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2\n",
    "proc/self/statm": "5000 3000 100 1 0 200 0\n",
    "proc/meminfo": "MemFree: 1 kB\nMemTotal:  48000 kB\n",
    "proc/self/fd/0": "",
    "proc/self/fd/1": "",
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
}


@pytest.mark.skipif(sys.platform == "win32", reason="it has no /proc")
def test_proc_tells_where_there_is_no_psutil(tmp_path: Path) -> None:
    """Memory and files of the process, processors of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    reader = HostReader(root=files(tmp_path, PROC))
    first = reader.read(0.0)
    files(tmp_path, {"proc/stat": "cpu  130 0 110 740 120 0 0 0 50 0\n"})
    second = reader.read(1.0)

    assert (None, 3000 * page, 2) == (first.cpu, first.memory, first.open_files)
    assert 3000 * page / (48000 * 1024) == first.memory_share
    assert 0 < (first.open_files_share or 0) < 1
    assert pytest.approx(0.4) == second.cpu
    assert None is reader.read(1.0).cpu


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_control_group_goes_before_the_machine(
    tmp_path: Path, version: int
) -> None:
    """That of the container, or one around it."""
    top = "sys/fs/cgroup"
    if version == 2:
        group = {
            "proc/self/cgroup": "0::/pod/box\n",
            f"{top}/pod/box/cpu.max": "400000 100000\n",
            f"{top}/pod/box/cpu.stat": "usage_usec 0\n",
            f"{top}/pod/box/memory.max": "max\n",
            f"{top}/pod/cpu.max": "200000 100000\n",
            f"{top}/pod/memory.max": "24576000\n",
            f"{top}/cpu.max": "800000 100000\n",
        }
        used = {f"{top}/pod/cpu.stat": "user_usec 1\nusage_usec %d000000\n"}
    else:
        group = {
            "proc/self/cgroup": "3:cpu,cpuacct:/pod/box\n2:memory:/pod/box\n0::/\n",
            f"{top}/cpu/pod/box/cpu.cfs_quota_us": "-1\n",
            f"{top}/cpu/pod/box/cpu.cfs_period_us": "100000\n",
            f"{top}/cpu/pod/cpu.cfs_quota_us": "200000\n",
            f"{top}/cpu/pod/cpu.cfs_period_us": "100000\n",
            f"{top}/memory/pod/memory.limit_in_bytes": "24576000\n",
            f"{top}/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
        used = {f"{top}/cpuacct/pod/cpuacct.usage": "%d000000000\n"}
    files(tmp_path, {**PROC, **group})
    reader = HostReader(root=tmp_path)
    assert None is reader.read(9.0).cpu
    shares = []
    for moment, seconds in ((10.0, 100), (11.0, 101), (12.0, 109), (13.0, 109)):
        files(tmp_path, {name: text % seconds for name, text in used.items()})
        reading = reader.read(moment)
        shares.append(reading.cpu)

    assert [0.5, 1.0, 0.0] == shares[1:]
    assert reading.memory is not None
    assert reading.memory / 24576000 == reading.memory_share


def test_files_that_are_cut_short_leave_the_machine(tmp_path: Path) -> None:
    """A group that does not tell what it has used is as good as none."""
    box = {
        "proc/meminfo": "MemFree: 1 kB\n",
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/box/cpu.stat": "user_usec 1\n",
    }
    reader = HostReader(root=files(tmp_path, {**PROC, **box}))
    reader.read(0.0)
    files(tmp_path, {"proc/stat": "cpu  130 0 110 740 120 0 0 0 50 0\n"})
    reading = reader.read(1.0)

    assert pytest.approx(0.4) == reading.cpu
    assert None is reading.memory_share


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    """As one without /proc."""
    reader = HostReader(root=tmp_path)

    assert (None, None, None, None) == reader.read(0.0)[:4]


def test_psutil_tells_what_proc_does(tmp_path: Path) -> None:
    """Of this process, about the same."""
    psutil = pytest.importorskip("psutil")
    reader = HostReader(psutil, root=tmp_path)
    reader.read(0.0)
    reading = reader.read(1.0)

    assert None is not reading.memory
    assert 2**20 < reading.memory < 2**40
    assert 0 < (reading.memory_share or 0) < 1
    assert 0 < (reading.open_files or 0)
    assert None is reading.cpu or 0 <= reading.cpu <= 1


def test_psutil_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not missed elsewhere."""
    fake = SimpleNamespace(Process=lambda: "its process")
    monkeypatch.setitem(sys.modules, "psutil", fake)
    assert "its process" == HostReader.of_this_host()._process
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert None is HostReader.of_this_host()._process
