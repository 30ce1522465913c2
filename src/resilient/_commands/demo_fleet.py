"""``resilient demo --fleet``: four processes keep one limit while their server fails.

A third of the way the server is killed. It is back, empty, half-way, and loses its
data once more after three quarters. The processes call as often as they can, and say
when a call passed; what is shown is counted from that.

`run` starts the server and the workers, each of which runs `work`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final, TextIO

__all__ = ["run"]

RATE: Final = 200
"""Calls a second, of all workers together."""

BURST: Final = 100
"""Calls at once, likewise."""

WORKERS: Final = 4

_KILLED, _BACK, _FLUSHED = 1 / 3, 1 / 2, 3 / 4
"""When the server fails, as shares of the whole time."""

_WIDTH: Final = 24
"""Columns for `RATE` calls in a second."""


def run(seconds: int, *, as_json: bool) -> int:
    """Run the demo and print what the fleet did in each second.

    Args:
        seconds: How long the workers call.
        as_json: Print the figures as JSON, and everything else to stderr.

    Returns:
        The exit code: 1 where there is no server, or no redis-py.
    """
    try:
        import redis
    except ModuleNotFoundError:
        return _fail("it needs redis-py; run: pip install 'resilient-pipeline[redis]'")
    url = os.environ.get("RESILIENT_REDIS_URL")
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if url is None and binary is None:
        return _fail(
            "there is no redis-server and no valkey-server here, and"
            " RESILIENT_REDIS_URL is not set"
        )
    out = sys.stderr if as_json else sys.stdout
    try:
        with ExitStack() as stack:
            server = Server(binary, stack) if url is None and binary else None
            address = server.url if server else url or ""
            # Its keywords are not typed.
            client: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                address, socket_timeout=5.0
            )
            stack.callback(client.close)
            if server is None:
                client.ping()
            figures, over = _play(seconds, address, server, client, out, stack)
    except (ValueError, redis.RedisError) as error:
        # NB: its kind alone: its text may have the URL, and so a password.
        return _fail(f"the server cannot be asked: {type(error).__name__}")
    if as_json:
        result = {"rate": RATE, "burst": BURST, "passed": figures, "over": over}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


def _play(
    seconds: int,
    url: str,
    server: Server | None,
    client: Any,
    out: TextIO,
    stack: ExitStack,
) -> tuple[list[list[int]], int]:
    """Run the workers, have the server fail, and print what they did.

    Returns:
        How many calls of each worker passed in each second; and how many more than
        the limit allows, in the worst stretch.
    """
    out.write(
        f"{WORKERS} processes share RateLimiter({RATE}, burst={BURST}): in any t"
        f" seconds at most\n{BURST} + {RATE} t calls of them all\n"
    )
    # NB: a prefix of this run alone: the server may be one that others use.
    prefix = f"resilient-demo-{os.getpid()}"
    workers = [_Worker(url, prefix, seconds, stack) for _ in range(WORKERS)]
    begin = max([worker.is_ready() for worker in workers])
    for worker in workers:
        worker.begin(begin)
    faults = _faults(seconds, server, client, prefix)
    moments: list[float] = []
    figures: list[list[int]] = []
    for second in range(seconds):
        said: list[str] = []
        while faults and faults[0][0] < second + 1:
            at, act, text = faults.pop(0)
            time.sleep(max(0.0, begin + at - time.monotonic()))
            act()
            said.append(text)
        passed = [worker.second() for worker in workers]
        moments += [moment for each in passed for moment in each]
        figures.append([len(each) for each in passed])
        out.write(_line(second, figures[-1], said))
        out.flush()
    for worker in workers:
        worker.end()
    over = most_over(sorted(moments))
    out.write(
        f"{len(moments)} calls of the {BURST + RATE * seconds} that the limit allows;"
        f" {over} too many in the worst stretch;\n"
        f"{min(map(sum, figures))} or more in each second\n"
    )
    return figures, over


def work(url: str, prefix: str, seconds: int) -> None:
    """Call for so many seconds; print when calls passed, a line a second."""
    from resilient import RateLimitedError, RateLimiter
    from resilient.redis import RedisStore

    with RedisStore(url, prefix=prefix, members=WORKERS) as store:
        limiter = RateLimiter(RATE, burst=BURST, name="api", shared=store)
        _say(time.monotonic())
        begin = float(sys.stdin.readline())
        for second in range(seconds):
            passed: list[float] = []
            while time.monotonic() < begin + second + 1:
                try:
                    passed.append(limiter.call(time.monotonic))
                except RateLimitedError:
                    time.sleep(0.002)
            _say(passed)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def most_over(moments: Iterable[float]) -> int:
    """Return the most calls over the limit in any stretch of time.

    Args:
        moments: When calls passed, in order.
    """
    level, last, least = float(BURST), 0.0, 0.0
    for moment in moments:
        level = min(BURST, level + RATE * (moment - last)) - 1.0
        last, least = moment, min(least, level)
    return round(-least)


def _faults(
    seconds: int, server: Server | None, client: Any, prefix: str
) -> list[tuple[float, Any, str]]:
    """Return when what is done to the server, and what to say of it."""

    def forget() -> None:
        for key in client.scan_iter(match=f"{{{prefix}:*"):
            client.delete(key)

    lost = [(seconds * _FLUSHED, forget, "the data is lost")]
    if server is None:
        # One that others use is not killed.
        return lost
    return [
        (seconds * _KILLED, server.kill, "the server is killed"),
        (seconds * _BACK, server.start, "it is back, empty"),
        *lost,
    ]


def _line(second: int, passed: Sequence[int], said: Sequence[str]) -> str:
    calls = sum(passed)
    bar = "#" * round(_WIDTH * calls / RATE)
    by = "+".join(map(str, passed))
    text = f"{second:3} s {calls:5} calls  {bar:{_WIDTH * 3 // 2}}  {by}"
    return text + "".join(f"\n      {one}" for one in said) + "\n"


def _fail(text: str) -> int:
    sys.stderr.write(f"resilient demo --fleet: {text}\n")
    return 1


class Server:
    """A server without persistence, on a free port of the loopback.

    Args:
        binary: The program.
        stack: What ends it.
    """

    def __init__(self, binary: str, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url: str = f"redis://127.0.0.1:{port}"
        self._command = [binary, "--port", str(port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--dir", folder]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        stack.callback(self.kill)

    def start(self) -> None:
        """Start it, empty."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class _Worker:
    """One process of the fleet."""

    def __init__(self, url: str, prefix: str, seconds: int, stack: ExitStack) -> None:
        command = [sys.executable, "-m", __name__, url, prefix, str(seconds)]
        self._process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # Ctrl-C is for the first process, which ends the others.
                start_new_session=True,
            )
        )
        stack.callback(self._process.kill)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def is_ready(self) -> float:
        """Wait until it is; return when that was."""
        moment: float = self._read()
        return moment

    def begin(self, moment: float) -> None:
        """Have it begin."""
        assert self._process.stdin is not None
        print(moment, file=self._process.stdin, flush=True)

    def second(self) -> list[float]:
        """Return when calls passed in the next second."""
        passed: list[float] = self._read()
        return passed

    def end(self) -> None:
        """Wait until it has ended."""
        self._process.wait()


if __name__ == "__main__":  # pragma: no cover - in a process of its own
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
