"""Runs in several processes: the same, in the same order, and no process left."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Policy,
    Retry,
    RetryBudget,
    Timeout,
    TimeoutExceededError,
)
from resilient.simulation import (
    Dependency,
    Outage,
    Result,
    Run,
    Scenario,
    _choose,
    choose,
    compare,
    save,
    simulate,
    sweep,
)
from resilient.simulation._jobs import Job, runs, work
from resilient.simulation._run import run

SCENARIO = Scenario(
    "short",
    rate=20,
    duration=20,
    clients=2,
    dependency=Dependency(servers=3, failures=0.1),
    events=[Outage(5, 8)],
)
BUDGET = RetryBudget(0.2, 2)
PIPELINE = Pipeline(
    Fallback(function=lambda error: 3),
    Retry(ConnectionError, TimeoutExceededError, budget=BUDGET),
    Hedge(0.3, budget=BUDGET),
    CircuitBreaker(),
    Timeout(1),
)


class Refusing:
    """What cannot be sent to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("not this")

    def __call__(self, text: str) -> Exception:
        raise NotImplementedError


class Deadly(Refusing):
    """What ends a process that reads it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


class Unreadable(Refusing):
    """What cannot be read by another process."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class TwoWordError(Exception):
    """An error that pickles and cannot be read."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class Broken(Refusing):
    """What raises an error in the process that reads it."""

    def __reduce__(self) -> Any:
        return _raise_two_words, ()


def _raise_two_words() -> None:
    raise TwoWordError("a", "b")


def failing(error: Any) -> Scenario:
    """A scenario whose failures are made by a thing."""
    return Scenario("odd", rate=5, duration=10, dependency=Dependency(error=error))


def page(results: list[Result], path: Path) -> str:
    """The page of results."""
    save(results, path)
    return path.read_text("utf-8")


@pytest.mark.real
def test_any_number_of_processes_sees_the_same(tmp_path: Path) -> None:
    """To the byte of the page, in the same order; progress only grows."""
    shares: list[float] = []
    policies: dict[str, Policy[Any]] = {"whole": PIPELINE, "timeout": Timeout(1)}
    alone = compare(policies, SCENARIO, seeds=3)
    apart = compare(policies, SCENARIO, seeds=3, progress=shares.append, jobs=2)

    assert page([*alone.values()], tmp_path / "1") == page(
        [*apart.values()], tmp_path / "2"
    )
    for one, other in zip(alone.values(), apart.values(), strict=True):
        assert [vars(run) for run in one.runs] == [vars(run) for run in other.runs]
    assert [1 / 6, 1.0] == [shares[0], shares[-1]]
    assert shares == sorted(shares)
    assert [] == multiprocessing.active_children()


def test_numbers_are_found_by_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All runs of a round are given to them at once."""
    rounds: list[tuple[int, int]] = []

    def noted(jobs: Sequence[Job], processes: int, progress: Any) -> list[Run]:
        rounds.append((len(jobs), processes))
        return runs(jobs, 1, progress)

    monkeypatch.setattr(_choose, "runs", noted)
    choose(Timeout(1), [SCENARIO] * 2, {"timeout.seconds": [0.2, 1.0]}, jobs=7)

    assert [(4, 7), (8, 7), (16, 7)] == rounds


@pytest.mark.real
def test_a_process_that_ends_is_told_of() -> None:
    """Not waited for; the others end with it."""
    with pytest.raises(
        ChildProcessError, match="ended with exit code 7 before its run"
    ):
        simulate(Timeout(1), failing(Deadly()), jobs=2)
    assert [] == multiprocessing.active_children()


@pytest.mark.real
def test_an_error_in_a_process_is_raised() -> None:
    """As if it were here."""
    with pytest.raises(ValueError, match="'no number'"):
        sweep(Timeout(1), failing(Unreadable()), {"timeout.seconds": [1, 2]}, jobs=2)


def test_what_cannot_be_sent_is_refused() -> None:
    """Before a process is started; alone it can be simulated."""
    policy = Retry(ConnectionError, on=lambda error: True)
    text = "`jobs` must be 1 for what cannot be sent to another process: "
    for scenario, each in ((SCENARIO, policy), (failing(Refusing()), Timeout(1))):
        with pytest.raises(ValueError, match=f"^{text}") as caught:
            simulate(each, scenario, seeds=2, jobs=2)
        assert caught.value.__cause__ is not None
    assert 1 == len(simulate(policy, SCENARIO, seeds=1, jobs=2).runs)


@pytest.mark.parametrize("function", [simulate, choose])
def test_a_number_of_processes_is_checked(function: Any) -> None:
    """One at least."""
    over = {} if function is simulate else {"over": {"timeout.seconds": [1]}}
    with pytest.raises(ValueError, match=r"^`jobs` must be >= 1, got 0$"):
        function(Timeout(1), SCENARIO, jobs=0, **over)


class Pipe:
    """The end of a pipe to a parent that sends some runs and is gone then."""

    def __init__(self, *jobs: Job) -> None:
        self.sent = [pickle.dumps(job) for job in jobs]
        self.answers: list[Any] = []

    def recv_bytes(self) -> bytes:
        if not self.sent:
            raise EOFError
        return self.sent.pop(0)

    def send(self, answer: object) -> None:
        self.answers.append(pickle.loads(pickle.dumps(answer)))


def test_a_process_does_runs_until_its_parent_is_gone() -> None:
    """It answers with what was seen, or with an error that can be read."""
    kinds = (Unreadable, Broken)
    odd = [Job(Timeout(1), failing(kind()), 3) for kind in kinds]
    pipe: Any = Pipe(Job(Timeout(1), SCENARIO, 3), *odd)
    work(pipe)
    seen, error, unknown = pipe.answers

    assert vars(seen) == vars(run(Timeout(1), SCENARIO, 3, None))
    assert isinstance(error, ValueError)
    assert repr(unknown) == """RuntimeError("TwoWordError('a')")"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    """Ctrl-C, which the terminal sends to each: one line, and none is left."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing
            import signal
            import sys
            from resilient import Timeout, simulation, __main__

            def begun(share):
                print("begun", flush=True)

            def command(arguments):
                calm = simulation.Scenario("calm", rate=50, duration=100)
                try:
                    simulation.simulate(
                        Timeout(1), calm, seeds=1000, jobs=2, progress=begun
                    )
                finally:
                    print("left", multiprocessing.active_children())

            if __name__ == "__main__":
                # What a shell starts in the background ignores it.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                __main__.simulate = command
                sys.exit(__main__.main(["simulate"]))
            """
        ),
        "utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert "begun\n" == process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        printed, complaints = process.communicate(timeout=120)
    finally:
        process.kill()

    assert (130, "\ninterrupted\n") == (process.returncode, complaints)
    assert printed.endswith("left []\n")
