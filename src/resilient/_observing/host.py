"""What the system tells of this process: CPU, memory, open files.

Ground rules:

* What a control group (cgroup) allows goes before what the machine has: in a
  container the machine is not ours.
* Without psutil the files below ``/proc`` are read, so on Linux nothing needs to be
  installed. What cannot be found is None, and no error.

============ ============================== ================================
             of what                        limit
============ ============================== ================================
CPU          the group, where it has a      its quota
             quota; else the machine        all processors
memory       this process (resident)        that of the group, else the
                                            machine's
open files   this process                   its soft limit
============ ============================== ================================

Source: Linux, "Control Group v2", ``cpu.max`` and ``memory.max``; for version 1
"CFS Bandwidth Control"; proc(5).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

_ROOT: Final = Path("/")

_UNLIMITED: Final = 1 << 60
"""Bytes: what version 1 of cgroups says for no limit is more."""


class HostReading(NamedTuple):
    """What was read; None: it cannot be.

    Attributes:
        cpu: Share of the time of the processors that was used since the last
            reading, 0 to 1.
        memory: Bytes.
        memory_share: What that is of the limit.
        open_files: How many.
        open_files_share: What that is of the limit.
    """

    cpu: float | None = None
    memory: int | None = None
    memory_share: float | None = None
    open_files: int | None = None
    open_files_share: float | None = None


class HostReader:
    """Reads what the system tells of this process.

    Args:
        psutil: The module psutil; None: without it.
        root: Where ``proc`` and ``sys`` are.
    """

    def __init__(self, psutil: Any = None, root: Path = _ROOT) -> None:
        self._psutil = psutil
        self._process = None if psutil is None else psutil.Process()
        self._proc = root / "proc"
        self._groups = _Groups(self._proc / "self/cgroup", root / "sys/fs/cgroup")
        self._cpu_was: tuple[float, float] | None = None

    @classmethod
    def of_this_host(cls) -> HostReader:
        """Return one with psutil where that is installed."""
        try:
            psutil = importlib.import_module("psutil")
        except ImportError:
            psutil = None
        return cls(psutil)

    def read(self, now: float) -> HostReading:
        """Read everything.

        Args:
            now: Monotonic seconds.
        """
        memory, files = _told(self._memory), _told(self._open_files)
        return HostReading(
            _told(lambda: self._cpu(now)),
            memory,
            _share(memory, _told(self._memory_limit)),
            files,
            _share(files, _told(_file_limit)),
        )

    def _cpu(self, now: float) -> float | None:
        group = self._groups.cpu()
        if group is not None:
            used, cores = group
            spent = used, now * cores
        elif self._psutil is not None:
            times = self._psutil.cpu_times()
            idle = times.idle + getattr(times, "iowait", 0.0)
            # NB: guests are in the times of their host, too.
            guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
            total = sum(times) - guests
            spent = total - idle, total
        else:
            first = (self._proc / "stat").read_text().split("\n", 1)[0]
            fields = [float(field) for field in first.split()[1:9]]
            total = sum(fields)
            spent = total - fields[3] - fields[4], total
        before, self._cpu_was = self._cpu_was, spent
        if before is None or spent[1] <= before[1]:
            return None
        return min(1.0, max(0.0, (spent[0] - before[0]) / (spent[1] - before[1])))

    def _memory(self) -> int:
        if self._process is not None:
            return int(self._process.memory_info().rss)
        pages = int((self._proc / "self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _memory_limit(self) -> int:
        limit = self._groups.memory()
        if limit is not None:
            return limit
        if self._psutil is not None:
            return int(self._psutil.virtual_memory().total)
        for line in (self._proc / "meminfo").read_text().split("\n"):
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
        raise ValueError("no MemTotal")

    def _open_files(self) -> int:
        if self._process is not None and hasattr(self._process, "num_fds"):
            return int(self._process.num_fds())
        return len(os.listdir(self._proc / "self/fd"))


class _Groups:
    """The control groups of this process, of version 1 or 2."""

    def __init__(self, own: Path, mount: Path) -> None:
        self._mount = mount
        self._paths: dict[str, str] = {}
        try:
            lines = own.read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            for controller in controllers.split(","):
                self._paths[controller] = path.strip("/")

    def cpu(self) -> tuple[float, float] | None:
        """Return the seconds that the tightest group has used, and its cores."""
        found: tuple[float, Path, bool] | None = None
        for place, old in self._places("cpu"):
            if old:
                quota = _number(place / "cpu.cfs_quota_us")
                period = _number(place / "cpu.cfs_period_us")
            else:
                quota, period = _numbers(place / "cpu.max")
            if quota is None or period is None or quota <= 0 or period <= 0:
                continue
            if found is None or quota / period < found[0]:
                found = quota / period, place, old
        if found is None:
            return None
        cores, place, old = found
        if old:
            # NB: another controller, mounted beside this one or with it.
            inside = place.relative_to(self._mount / "cpu")
            used = _number(self._mount / "cpuacct" / inside / "cpuacct.usage")
            return None if used is None else (used / 1e9, cores)
        for line in (place / "cpu.stat").read_text().split("\n"):
            if line.startswith("usage_usec "):
                return int(line.split()[1]) / 1e6, cores
        return None

    def memory(self) -> int | None:
        """Return the bytes that the tightest group may use."""
        limits = [
            _number(place / ("memory.limit_in_bytes" if old else "memory.max"))
            for place, old in self._places("memory")
        ]
        found = [limit for limit in limits if limit and limit < _UNLIMITED]
        return min(found, default=None)

    def _places(self, controller: str) -> Iterator[tuple[Path, bool]]:
        """Yield the folders of the group and of those around it."""
        old = controller in self._paths
        path = self._paths.get(controller if old else "")
        if path is None:
            return
        top = self._mount / controller if old else self._mount
        place = top / path
        while True:
            yield place, old
            if place == top:
                return
            place = place.parent


def _told(read: Callable[[], Any]) -> Any:
    """Return what can be read; None: the system does not tell."""
    try:
        return read()
    except Exception:
        return None


def _share(used: int | None, limit: int | None) -> float | None:
    return None if used is None or not limit else used / limit


def _file_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _number(path: Path) -> int | None:
    return _numbers(path)[0]


def _numbers(path: Path) -> tuple[int | None, int | None]:
    """Return the first two numbers of a file; None: there is none, or no limit."""
    try:
        words = path.read_text().split()
    except OSError:
        return None, None
    found = [int(word) if word.lstrip("-").isdigit() else None for word in words]
    return (*found, None, None)[0], (*found, None, None)[1]
