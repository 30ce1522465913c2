"""Runs one after another, or in several processes: the same runs in the same order.

Ground rules:

* A run depends on its policy, scenario and seed, and on nothing of its process. So
  which process does it, and when, changes nothing.
* A process is started anew and imports what it needs ("spawn"): one that is forked
  off a process with threads may hang, and is not to be had everywhere.
* Ctrl-C is the parent's. It ends the others, as any other error does.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, cast

from resilient._errors.errors import ResilientWarning
from resilient._policy.policy import Policy
from resilient.simulation._copies import copy_policy
from resilient.simulation._record import Run
from resilient.simulation._run import Progress, part, run
from resilient.simulation._scenario import Scenario


class Job(NamedTuple):
    """One run: a policy, in a scenario, with a seed."""

    policy: Policy[Any]
    scenario: Scenario
    seed: int


def runs(jobs: Sequence[Job], processes: int, progress: Progress | None) -> list[Run]:
    """Do some runs, and return what was seen, in their order.

    Args:
        jobs: The runs.
        processes: Processes that do them; 1: this one.
        progress: Told which share of all is done, from 0 to 1.

    Raises:
        ValueError: A policy cannot be simulated, or not be sent to another process.
        ChildProcessError: A process ended before its run had.
    """
    if processes > 1 and len(jobs) > 1:
        return _apart(jobs, processes, progress)
    return [
        run(*job, part(progress, place, 1, len(jobs))) for place, job in enumerate(jobs)
    ]


def _apart(jobs: Sequence[Job], processes: int, progress: Progress | None) -> list[Run]:
    packed = [_packed(job) for job in jobs]
    workers: dict[Connection, BaseProcess] = {}
    # Which run each does.
    places: dict[Connection, int] = {}
    found: dict[int, Run] = {}
    told: Progress = progress or (lambda share: None)
    try:
        for _ in range(min(processes, len(jobs))):
            connection, process = _started()
            workers[connection] = process
            places[connection] = len(places)
            _send(connection, packed[places[connection]])
        begun = len(places)
        while places:
            for connection in cast("list[Connection]", wait(list(places))):
                place = places.pop(connection)
                found[place] = _received(connection, workers[connection])
                told(len(found) / len(jobs))
                if begun < len(jobs):
                    places[connection] = begun
                    _send(connection, packed[begun])
                    begun += 1
    finally:
        for process in workers.values():
            process.terminate()
        for connection, process in workers.items():
            process.join()
            connection.close()
    return [found[place] for place in range(len(jobs))]


def _packed(job: Job) -> bytes:
    """Return a run as another process can read it."""
    # NB: a copy is without the functions that a simulation does not call, which often
    # cannot be sent.
    lean = job._replace(policy=copy_policy(job.policy, {}))
    try:
        return pickle.dumps(lean)
    except Exception as error:
        raise ValueError(
            f"`jobs` must be 1 for what cannot be sent to another process: {error}"
        ) from error


def _started() -> tuple[Connection, BaseProcess]:
    """Start a process; return it, and where to send runs and receive what was seen."""
    context = multiprocessing.get_context("spawn")
    ours, other = context.Pipe()
    process = context.Process(target=work, args=(other,), daemon=True)
    with _interrupts_held():
        process.start()
    # NB: else it would not be known here that the process has ended.
    other.close()
    return ours, process


@contextmanager
def _interrupts_held() -> Generator[None]:
    """Hold Ctrl-C back in this process, and for ever in those that it starts now."""
    if sys.platform == "win32":  # pragma: no cover - is not measured
        yield
        return
    from multiprocessing import resource_tracker

    # NB: as it starts, with the first process else, it lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection: Connection, packed: bytes) -> None:
    # Where the process has ended it is told as its answer is awaited.
    with suppress(OSError):
        connection.send_bytes(packed)


def _received(connection: Connection, process: BaseProcess) -> Run:
    try:
        answer: Run | Exception = connection.recv()
    except (EOFError, OSError):
        process.join()
        raise ChildProcessError(
            f"a process of `jobs` ended with exit code {process.exitcode} before its"
            " run had: a script must start it under `if __name__ == '__main__':`"
        ) from None
    if isinstance(answer, Run):
        return answer
    raise answer


def work(connection: Connection) -> None:
    """Do the runs that come, until the other end is closed."""
    # The parent has told of them.
    warnings.simplefilter("ignore", ResilientWarning)
    while True:
        try:
            packed = connection.recv_bytes()
        except (EOFError, OSError):
            return
        answer: Run | Exception
        try:
            job: Job = pickle.loads(packed)
            answer = run(*job, None)
        except Exception as error:
            answer = _portable(error)
        connection.send(answer)


def _portable(error: Exception) -> Exception:
    """Return an error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
