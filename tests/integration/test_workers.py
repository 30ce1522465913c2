"""The pages on workers and on gevent: what they show runs, and does what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resilient.testing import instant

PAGES = Path(__file__).parents[2] / "docs/how-to"
LATE = "from gevent import monkey\n\nmonkey.patch_all()\n"


def code(page: str) -> str:
    """The code of a page that needs another library."""
    (found,) = re.findall(
        r"^```py\n(.*?)^```$", (PAGES / page).read_text("utf-8"), re.M | re.S
    )
    return str(found)


def exported(namespace: dict[str, Any], *outcomes: BaseException | str) -> Any:
    """Run the task of the page once, eagerly; what its calls end with is given."""
    ends = iter(outcomes)

    def send(number: int) -> str:
        end = next(ends)
        if isinstance(end, BaseException):
            raise end
        return end

    namespace["send"] = namespace["partner"](send)
    return namespace["export"]


def test_a_job_of_celery_goes_back_with_the_time_of_the_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused, it waits for `retry_after`; failed, for minutes."""
    celery = pytest.importorskip("celery")
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(compile(code("queue-workers.md"), "page", "exec"), namespace)
    app = namespace["app"]
    countdowns: list[float] = []

    def retry(self: Any, exc: BaseException, countdown: float) -> BaseException:
        countdowns.append(countdown)
        return celery.exceptions.Retry(exc=exc)  # type: ignore[no-any-return]  # of celery

    task = exported(namespace, "sent", *[ConnectionError("reset")] * 99)
    monkeypatch.setattr(celery.Task, "retry", retry)
    with instant():
        assert "sent" == task.apply(args=[7]).get()
        task.apply(args=[7])
        namespace["partner"].policies[3].force_open()
        task.apply(args=[7])
    app.close()

    # Three attempts in vain, and a circuit that is forced open says no time.
    assert [60, 1] == countdowns


def run_code(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that it may patch."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )


@pytest.mark.real
def test_the_page_on_gevent_holds() -> None:
    """All that it shows, in a process that is patched first."""
    pytest.importorskip("gevent")
    ran = run_code(code("gevent.md"))

    assert 0 == ran.returncode, ran.stderr
    assert LATE in code("gevent.md")


@pytest.mark.real
def test_a_process_that_is_patched_too_late_waits_one_by_one() -> None:
    """Of the page's assertions the one on pauses fails."""
    pytest.importorskip("gevent")
    program = f"import resilient\n{code('gevent.md')}"
    pauses = "assert time.monotonic() - began < 20 * 0.3 / 2"
    line = 1 + program.splitlines().index(pauses)
    ran = run_code(program)

    # NB: the code itself is shown from Python 3.13 on.
    assert f"line {line}, in <module>" in ran.stderr
    assert "AssertionError" in ran.stderr
