"""The report of a simulation in a real browser: it asks for nothing, and fits."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from resilient import CircuitBreaker, Pipeline, Retry, Timeout
from resilient.simulation import Outage, Scenario, compare, save

SCREENSHOTS = os.environ.get("RESILIENT_SCREENSHOTS")
"""A folder to leave pictures in, for people to look at."""

WIDTHS = {"phone": 380, "tablet": 768, "desk": 1280}


class Seen(NamedTuple):
    """What the browser made of a page.

    Attributes:
        requests: Every address that was asked for, the page's own first.
        colours: Of its paper and of its ink.
        overflow: By how many pixels it is wider than the window.
        cut: Texts of plots that stand out of their plot.
        inner: By how many pixels the table is wider than the room for it.
    """

    requests: list[str]
    colours: tuple[str, str]
    overflow: float
    cut: list[str]
    inner: float


LOOK = """({
  colours: [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.body).color],
  overflow: document.documentElement.scrollWidth - innerWidth,
  cut: [...document.querySelectorAll("svg")].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const own = text.getBoundingClientRect();
      return own.left < box.left - 1 || own.right > box.right + 1 ||
             own.top < box.top - 1 || own.bottom > box.bottom + 1;
    }).map(text => text.textContent);
  }),
  inner: (each => each.scrollWidth - each.clientWidth)(
    document.querySelector(".scroll")),
})"""


# It reads from 3 and writes to 4.
AS_THREE_AND_FOUR = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for number, pipe in enumerate(pipes, 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """A browser without windows, asked by its own protocol through two pipes.

    Args:
        profile: A folder for what it writes.
    """

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            if os.environ.get("CI") == "true":
                raise AssertionError("CI has no Chromium")
            pytest.skip("no Chromium on this machine")
        commands, answers = os.pipe(), os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                AS_THREE_AND_FOUR,
                str(commands[0]),
                str(answers[1]),
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=(commands[0], answers[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        self._to = os.fdopen(commands[1], "wb", buffering=0)
        self._from = os.fdopen(answers[0], "rb", buffering=0)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None

    def __enter__(self) -> Self:
        return self

    def open(self) -> None:
        """Open a page to look at others in."""
        page = self.ask("Target.createTarget", url="about:blank")
        self.session = self.ask("Target.attachToTarget", flatten=True, **page)[
            "sessionId"
        ]
        self.ask("Network.enable")
        self.ask("Page.enable")

    def __exit__(self, *unwinding: object) -> None:
        self.process.kill()
        self.process.wait()
        self._to.close()
        self._from.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Wait for an event of the page that was not waited for yet."""
        while not any(each.get("method") == method for each in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._from.read(1 << 16)
            assert more, "Chromium has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def see(self, page: Path, width: int, theme: str) -> Seen:
        """Load a page in a window, in a theme, and look at it."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        media = [{"name": "prefers-color-scheme", "value": theme}]
        self.ask("Emulation.setEmulatedMedia", features=media)
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        self.wait_for("Page.loadEventFired")
        looked = self.ask("Runtime.evaluate", expression=LOOK, returnByValue=True)
        if SCREENSHOTS is not None:
            shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
            path = Path(SCREENSHOTS, f"{page.stem}-{width}-{theme}.png")
            path.write_bytes(base64.b64decode(shot["data"]))
        requests = [
            each["params"]["request"]["url"]
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]
        value = looked["result"]["value"]
        return Seen(requests, tuple(value.pop("colours")), **value)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Chromium, started once."""
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        chromium.open()
        yield chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with three configurations, and a check that fails."""
    scenario = Scenario("a small storm", rate=50, duration=60, events=[Outage(10, 20)])
    failures = TimeoutError, ConnectionError
    policies = {
        "naive retries": Pipeline(Retry(*failures, budget=None), Timeout(1)),
        "the defaults": Pipeline(Retry(*failures), CircuitBreaker(), Timeout(1)),
        "a name that is far too long": Timeout(1),
    }
    results = list(compare(policies, scenario, seeds=1).values())
    path = tmp_path_factory.mktemp("report") / "report.html"
    save(results, path, [("the defaults", "p99 9 <= 1", False)])
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_report_asks_for_nothing_and_fits(
    browser: Chromium, report: Path, width: int, theme: str
) -> None:
    """Its own file is all that is loaded, and only its table may be scrolled."""
    seen = browser.see(report, width, theme)

    assert [report.as_uri()] == seen.requests
    assert seen.overflow <= 0
    assert [] == seen.cut
    paper, ink = ("rgb(255, 255, 255)", "rgb(28, 30, 33)")
    if theme == "dark":
        paper, ink = ("rgb(23, 25, 28)", "rgb(230, 230, 230)")
    assert (paper, ink) == seen.colours
    assert seen.inner == 0 or width < WIDTHS["desk"]


def test_a_page_that_asks_for_something_is_seen_to(
    browser: Chromium, report: Path, tmp_path: Path
) -> None:
    """So that the test above could fail."""
    page = tmp_path / "page.html"
    asks = '<img src="http://127.0.0.1:9/picture"><p style="width:3000px">wide</p>'
    page.write_text(report.read_text("utf-8").replace("</html>", asks), "utf-8")

    seen = browser.see(page, 768, "light")

    assert [page.as_uri(), "http://127.0.0.1:9/picture"] == seen.requests
    assert seen.overflow > 0
