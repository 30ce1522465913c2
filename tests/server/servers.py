"""Real servers on this machine, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds

COMMANDS: dict[str, tuple[str, str]] = {
    "uvicorn": ("uvicorn", "--host 127.0.0.1 --port {port} --log-level warning"),
    "uvicorn-workers": (
        "uvicorn",
        "--host 127.0.0.1 --port {port} --log-level warning --workers 2",
    ),
    "hypercorn": ("hypercorn", "--bind 127.0.0.1:{port}"),
    "hypercorn-trio": ("hypercorn", "--bind 127.0.0.1:{port} -k trio"),
    # On uvloop, which it takes where it finds it, it takes SIGTERM before us.
    "granian": (
        "granian",
        "--interface asgi --loop asyncio --host 127.0.0.1 --port {port}",
    ),
    "gunicorn": (
        "gunicorn",
        "-k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port} --graceful-timeout 30",
    ),
}


class Server:
    """A server that runs.

    Attributes:
        url: Where it listens.
        process: Its process.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process

    def client(self, **options: Any) -> httpx.Client:
        # NB: without certificates, which take longer to load than a request.
        options = {"timeout": PATIENCE, "verify": False, "trust_env": False} | options
        return httpx.Client(base_url=self.url, **options)

    def wait_for(self, told: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until what the application tells of itself is as it should be."""
        state: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE
        with self.client() as client:
            while time.monotonic() < until:
                state = client.get("/state").json()
                if told(state):
                    return state
                time.sleep(0.02)
        raise AssertionError(f"it stays {state}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def served(
    name: str, app: str = "tests.server.served:app", extra: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a server until the end of the block; without it, the test is skipped."""
    module, options = COMMANDS[name]
    needed = ["uvicorn_worker", module] if name == "gunicorn" else [module]
    for one in needed:
        if importlib.util.find_spec(one) is None:
            text = f"{one} is not installed"
            assert "RESILIENT_SERVERS" not in os.environ, text
            pytest.skip(f"{text}; `nox -s integration` has it")
    port = free_port()
    arguments = options.format(port=port).split()
    with running([module, *arguments, *extra, app], port) as server:
        yield server


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a module that serves on a port, until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=None if environment is None else {**os.environ, **environment},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < until, f"{command[0]} does not listen"
                time.sleep(0.02)
        yield Server(f"http://127.0.0.1:{port}", process)
    finally:
        # NB: with its workers, which outlive a server that is killed.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
