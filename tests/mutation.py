"""Puts faults into the library and counts those that its tests notice.

`python -m tests.mutation` takes a sample: some files of the day, and some mutants
of each (the seed is printed). `python -m tests.mutation --all _machines policies`
takes every mutant of what is named. A mutant counts as killed when a test fails or
hangs. The tests of a file are those of `NEAR`; of these each mutant meets the ones
that run its lines, the fastest first, each mutant in a process forked from one that
has imported the library and collected the tests: a mutant is some functions whose
code is exchanged there, and costs no import and no collection.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import pickle
import random
import resource
import signal
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from tests.mutants import Mutant, codes, functions, mutants, name_of

import resilient

LIBRARY = Path(resilient.__file__).parent
HERE = Path(__file__).parent
ACCEPTED = HERE / "survivors.toml"
FOLDERS = ("_machines", "_edges", "_http", "policies")

EVERY_POLICY = (
    "test_cancellation.py",
    "test_configuration.py",
    "test_cut_calls.py",
    "test_counters.py",
    "test_events.py",
    "test_health.py",
    "test_judging.py",
    "test_priority.py",
    "test_liveness.py",
    "test_watching.py",
    "test_nasty_arguments.py",
)
# Which tests look at a file, by how its path begins; all that fit are added up.
NEAR: dict[str, tuple[str, ...]] = {
    "_machines/": ("machines/test_extremes.py",),
    "_machines/allotment": ("machines/test_holding.py", "sharing/test_bulkhead.py"),
    "_machines/budget_lease": (
        "machines/test_budget_lease.py",
        "sharing/test_budget.py",
    ),
    "_machines/circuit_records": ("machines/test_quorum.py", "sharing/test_circuit.py"),
    "_machines/delegate": ("machines/test_quorum.py", "sharing/test_circuit.py"),
    "_machines/holding": ("machines/test_holding.py", "sharing/test_bulkhead.py"),
    "_machines/pushback": ("machines/test_pushback.py", "http/test_holding.py"),
    "_machines/quorum": ("machines/test_quorum.py", "sharing/test_circuit.py"),
    "_machines/checks": ("test_checks.py",),
    "_machines/refresh": ("machines/test_refresh.py",),
    "_machines/restarts": ("machines/test_restarts.py", "test_supervisor.py"),
    "_machines/rendezvous": ("machines/test_tiers.py",),
    "_machines/tiers": ("machines/test_tiers.py", "test_balance.py"),
    "_machines/aimd": (
        "machines/test_aimd.py",
        "test_adaptive_concurrency.py",
        "test_configuration.py",
    ),
    "_machines/backoff": ("machines/test_backoff.py", "test_retry.py"),
    "_machines/budget": ("machines/test_budget.py", "test_retry_budget.py"),
    "_machines/circuit": ("machines/test_circuit.py", "test_circuit_breaker.py"),
    "_machines/codel": ("machines/test_codel.py", "test_adaptive_concurrency.py"),
    "_machines/contact": ("machines/test_contact.py",),
    "_machines/ejection": ("machines/test_ejection.py", "test_balance.py"),
    "_machines/endpoint_load": ("machines/test_endpoint_load.py", "test_balance.py"),
    "_machines/fleet": ("machines/test_fleet.py",),
    "_machines/freshness": ("machines/test_freshness.py", "test_stale_cache.py"),
    "_machines/gradient": ("machines/test_latency.py", "test_adaptive_concurrency.py"),
    "_machines/latency": ("machines/test_latency.py", "test_adaptive_concurrency.py"),
    "_machines/lease": ("machines/test_lease.py", "machines/test_fleet.py"),
    "_machines/partitions": ("machines/test_partitions.py", "test_priority.py"),
    "_machines/proportions": (
        "machines/test_proportions.py",
        "machines/test_fleet.py",
    ),
    "_machines/overload": ("machines/test_overload.py", "test_host.py"),
    "_machines/quantile": ("machines/test_quantile.py", "test_hedge.py"),
    "_machines/rate_limits": ("machines/test_rate_limits.py", "test_rate_limiter.py"),
    "_machines/shared_value": (
        "machines/test_shared_value.py",
        "sharing/test_values.py",
    ),
    "_machines/shared_bucket": (
        "machines/test_shared_bucket.py",
        "machines/test_fleet.py",
    ),
    "_machines/single_flight": ("machines/test_single_flight.py", "coalesce/test_*.py"),
    "_machines/slots": (
        "machines/test_slots.py",
        "machines/test_partitions.py",
        "test_bulkhead.py",
        "test_priority.py",
    ),
    "_machines/throttle": ("machines/test_throttle.py", "test_adaptive_throttle.py"),
    "_machines/vegas": ("machines/test_latency.py", "test_adaptive_concurrency.py"),
    "_machines/window": ("machines/test_window.py", "test_circuit_breaker.py"),
    "_edges/": (
        "test_spellings.py",
        "test_steps.py",
        "test_blocks.py",
        "test_generators.py",
        "test_lazy_results.py",
        "test_pipeline.py",
        "test_tracebacks.py",
        "test_call.py",
        "test_users_functions.py",
        "test_cancellation.py",
        "test_overruns.py",
        "test_timeout.py",
        "test_loops.py",
        "test_garbage.py",
        "test_threads.py",
        "test_hedge.py",
    ),
    "_edges/forks": ("test_forks.py",),
    "_http/": ("http/test_*.py",),
    "policies/": EVERY_POLICY,
    "policies/adaptive_concurrency": ("test_adaptive_concurrency.py",),
    "policies/adaptive_throttle": ("test_adaptive_throttle.py",),
    "policies/balance": ("test_balance.py", "test_discovery.py", "test_checks.py"),
    "policies/bulkhead": ("test_bulkhead.py", "test_long_waits.py"),
    "policies/circuit_breaker": ("test_circuit_breaker.py",),
    "policies/coalesce": ("coalesce/test_*.py",),
    "policies/fallback": ("test_fallback.py", "test_spellings.py"),
    "policies/hedge": ("test_hedge.py",),
    "policies/per_key": ("test_per_key.py",),
    "policies/pipeline": ("test_pipeline.py", "test_order.py", "test_call.py"),
    "policies/rate_limiter": (
        "test_rate_limiter.py",
        "test_long_waits.py",
        "sharing/test_rate_limiter.py",
    ),
    "policies/retry": ("test_retry.py", "test_before_retry.py", "test_blocks.py"),
    "policies/stale_cache": ("test_stale_cache.py",),
    "policies/timeout": ("test_timeout.py", "test_overruns.py", "test_generators.py"),
}

# Tests marked `real` are left out, but for these: nothing else runs what they test.
REAL = {
    HERE / "test_forks.py",
    HERE / "http/test_aiohttp.py",
    HERE / "http/test_requests.py",
}

JOBS = 2
# A mutant is given as much processor time again as its tests took, and this; what
# waits for ever is ended by the clock on the wall.
MORE_SECONDS = 3.0
WALL_SECONDS = 25.0


@dataclass
class File:
    """A file of the library, and the mutants that are tried on it."""

    path: str
    source: str
    mutants: list[Mutant]
    killed: int = 0
    hung: int = 0
    accepted: int = 0
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def tests(self) -> list[Path]:
        """The files of the tests that look at it."""
        globs = [
            glob
            for start in NEAR
            if self.path.startswith(start)
            for glob in NEAR[start]
        ]
        return sorted({path for glob in globs for path in HERE.glob(glob)})


@dataclass(frozen=True)
class Seen:
    """What one test ran of a file, and how long it took."""

    seconds: float
    lines: frozenset[int]


def library(starts: list[str]) -> list[File]:
    """The files of the library whose paths begin with one of `starts`."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        name = path.relative_to(LIBRARY).as_posix()
        if any(name.startswith(start) for start in starts):
            source = path.read_text("utf-8")
            if possible := mutants(source):
                found.append(File(name, source, possible))
    return found


def accepted() -> set[tuple[str, str, str, str]]:
    """The mutants that may survive."""
    listed = tomllib.loads(ACCEPTED.read_text("utf-8")).get("survivor", [])
    return {
        (one["file"], one["function"], one["before"], one["after"]) for one in listed
    }


class Mutation:
    """Runs the tests of a collected session on mutants, in the place of once."""

    def __init__(self, files: list[File], until: float) -> None:
        self.files = files
        self.until = until
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.unfreeze()  # else no function is found
        draw_less()
        known = accepted()
        for file in self.files:
            if time.monotonic() >= self.until:
                break
            near = set(file.tests)
            items = [
                item
                for item in session.items
                if item.path in near
                and (item.path in REAL or item.get_closest_marker("real") is None)
            ]
            seen: list[Seen] = in_a_child(partial(self.look, file, items))
            self.try_all(file, items, seen, known)
            say(file)
        return True

    def look(self, file: File, items: list[pytest.Item]) -> list[Seen]:
        """What each test runs of a file; one that fails by itself runs nothing."""
        current: set[int] = set()
        watch = sys.monitoring
        watch.use_tool_id(4, "mutation")

        def note(code: CodeType, line: int) -> Any:
            current.add(line)
            return watch.DISABLE

        watch.register_callback(4, watch.events.LINE, note)
        path = str(LIBRARY / file.path)
        for function in live(path).values():
            for one in function:
                for _, code in [("", one.__code__), *functions(one.__code__)]:
                    watch.set_local_events(4, code, watch.events.LINE)
        found = []
        for item, after in zip(items, [*items[1:], None], strict=True):
            current.clear()
            watch.restart_events()
            began = time.process_time()
            failed = self.fails(item, after)
            seconds = time.process_time() - began
            found.append(Seen(seconds, frozenset() if failed else frozenset(current)))
        return found

    def try_all(
        self,
        file: File,
        items: list[pytest.Item],
        seen: list[Seen],
        known: set[tuple[str, str, str, str]],
    ) -> None:
        """Try a file's mutants, `JOBS` of them at once."""
        path = str(LIBRARY / file.path)
        originals = codes(file.source, path, None)
        there = live(path)
        running: dict[int, tuple[Mutant, float]] = {}
        waiting = list(reversed(file.mutants))
        while running or (waiting and time.monotonic() < self.until):
            while waiting and len(running) < JOBS and time.monotonic() < self.until:
                mutant = waiting.pop()
                exchanged = exchanges(file.source, path, mutant, originals, there)
                if exchanged is None:
                    continue
                chosen = sorted(
                    (one.seconds, number)
                    for number, one in enumerate(seen)
                    if not one.lines.isdisjoint(mutant.lines)
                )
                if not chosen:
                    file.survivors.append(mutant)
                    continue
                cost = sum(seconds for seconds, _ in chosen)
                tests = [items[number] for _, number in chosen]
                process = fork(partial(self.meet, exchanged, tests, cost))
                wall = time.monotonic() + WALL_SECONDS + 5 * cost
                running[process] = (mutant, wall)
            process, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
            if process == 0:
                time.sleep(0.005)
                for one, (_, wall) in running.items():
                    if time.monotonic() > wall:
                        os.killpg(one, signal.SIGKILL)
                continue
            mutant, _ = running.pop(process)
            if status == 0:
                key = (file.path, mutant.function, mutant.before, mutant.after)
                if key in known:
                    file.accepted += 1
                else:
                    file.survivors.append(mutant)
            else:
                file.killed += 1
                file.hung += os.WIFSIGNALED(status)

    def meet(
        self,
        exchanged: list[tuple[FunctionType, CodeType]],
        tests: list[pytest.Item],
        cost: float,
    ) -> int:
        """Run tests on a mutant until one fails: 0 when it survives."""
        bound = int(2 * cost + MORE_SECONDS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (bound, bound + 5))
        for function, code in exchanged:
            function.__code__ = code
        for item, after in zip(tests, [*tests[1:], None], strict=True):
            if self.fails(item, after):
                return 1
        return 0

    def fails(self, item: pytest.Item, after: pytest.Item | None) -> bool:
        """Run one test."""
        self.failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return self.failed


def draw_less() -> None:
    """Have Hypothesis look for no smallest example, and draw the same each time."""
    # NB: pytest warns about a plugin of its own that was imported before it.
    from hypothesis import Phase, settings

    settings.register_profile(
        "mutation",
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=50,
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile("mutation")


def live(path: str) -> dict[str, list[FunctionType]]:
    """The functions of a file that this process has, by name."""
    found: dict[str, list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == path:
            found.setdefault(name_of(one.__code__), []).append(one)
    return found


def exchanges(
    source: str,
    path: str,
    mutant: Mutant,
    originals: dict[str, CodeType],
    there: dict[str, list[FunctionType]],
) -> list[tuple[FunctionType, CodeType]] | None:
    """Which functions get which code; None where the mutant cannot be had so."""
    found = []
    for name, code in codes(source, path, mutant).items():
        if code == originals[name]:
            continue
        for function in there.get(name, []):
            if function.__code__.co_freevars != code.co_freevars:
                return None
            found.append((function, code))
    return found or None


def fork(work: Callable[[], int]) -> int:
    """Do some work in a process of its own, silently; its status says how it went."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        silence()
        status = work()
    finally:
        os._exit(status)


def in_a_child(work: Callable[[], Any]) -> Any:
    """What some work returns that is done in a process of its own."""
    reading, writing = os.pipe()

    def answer() -> int:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(work(), pipe)
        return 0

    process = fork(answer)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pickle.load(pipe)
    os.waitpid(process, 0)
    return result


def silence() -> None:
    """Have this process write nothing more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def say(file: File) -> None:
    """Print what came out for one file."""
    tried = file.killed + len(file.survivors) + file.accepted
    hung = f", {file.hung} of them by time" if file.hung else ""
    print(f"{file.path}: {file.killed} of {tried} killed{hung}", flush=True)
    for mutant in file.survivors:
        print(f"  survived: {file.path}:{mutant}", flush=True)


def enough(files: list[File], name: str, least: float) -> bool:
    """Print the share of the killed; whether it is large enough."""
    killed = sum(file.killed for file in files)
    tried = killed + sum(len(file.survivors) for file in files)
    share = killed / tried if tried else 1.0
    print(f"{name}: {killed} of {tried} mutants killed ({share:.1%})")
    return share >= least


def main() -> int:
    """Try mutants and say which survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FOLDERS, metavar="start of a path")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--seed", type=int, default=datetime.date.today().toordinal())
    parser.add_argument("--sample", type=int, default=8, help="so many files")
    parser.add_argument("--each", type=int, default=24, help="mutants of each file")
    # NB: a sample's few files differ by more than this from the whole, whose aim is
    # 97 in 100.
    parser.add_argument("--least", type=float, default=0.6, help="share of killed")
    parser.add_argument("--seconds", type=float, help="begin no mutant after these")
    asked = parser.parse_args()
    began = time.monotonic()
    files = library(list(asked.files))
    if not asked.all:
        print(f"--seed {asked.seed}", flush=True)
        draw = random.Random(asked.seed)
        files = draw.sample(files, min(len(files), asked.sample))
        for file in files:
            many = min(len(file.mutants), asked.each)
            file.mutants = draw.sample(file.mutants, many)
    until = began + asked.seconds if asked.seconds else float("inf")
    tests = sorted({str(path) for file in files for path in file.tests})
    silent = ["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-s"]
    pytest.main([*silent, *tests], plugins=[Mutation(files, until)])
    machines = [file for file in files if file.path.startswith("_machines/")]
    others = [file for file in files if file not in machines]
    shares = [
        enough(machines, "machines", asked.least),
        enough(others, "elsewhere", asked.least),
    ]
    print(f"{time.monotonic() - began:.0f} s")
    return int(not all(shares))


if __name__ == "__main__":
    sys.exit(main())
