"""A primary and a replica of PostgreSQL, each on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest

CI = os.environ.get("CI") == "true"

PATIENCE = 60.0
"""Real seconds in which a server starts, on a loaded machine."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "8MB",
    "max_connections": "20",
    "autovacuum": "off",
}


def programs() -> Path:
    """Return where PostgreSQL's programs are; skip without them, but not in CI."""
    # NB: Debian puts those of a server beside the path, by their version.
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
    )
    on_path = shutil.which("initdb")
    if not found and on_path is not None:
        found = [Path(on_path)]
    if not found:
        if CI:
            raise AssertionError("CI has no PostgreSQL")
        pytest.skip("no PostgreSQL on this machine")
    return found[-1].parent


class Server:
    """A server in a folder of its own, which may be stopped and started.

    Args:
        source: What it is a replica of; None: a primary, empty.
    """

    def __init__(self, source: Server | None = None) -> None:
        self.programs = programs()
        # NB: of root PostgreSQL takes no orders; the package makes that user.
        as_root = hasattr(os, "getuid") and os.getuid() == 0
        self.user = "postgres" if as_root else None
        self.folder = Path(tempfile.mkdtemp(prefix="resilient-postgres-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user, self.user)
        self.data = self.folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if source is None:
            trusting = ("--auth=trust", "--username=app", "--no-locale")
            cheap = ("--encoding=UTF8", "--no-sync", "--wal-segsize=1")
            self._run("initdb", "-D", self.data, *trusting, *cheap)
        else:
            at = ("-h", "127.0.0.1", "-p", str(source.port), "-U", "app")
            how = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
            self._run("pg_basebackup", "-D", self.data, *at, *how)
        self.start()

    @property
    def url(self) -> str:
        """What SQLAlchemy connects by."""
        return f"postgresql+psycopg://app@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(self.programs / program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            **self._as(),
        )
        if done.returncode:
            raise AssertionError(f"{program}: {done.stdout.decode()}")

    def _as(self) -> dict[str, Any]:
        own: dict[str, Any] = {"cwd": self.folder}
        if self.user is not None:
            own |= {"user": self.user, "group": self.user, "extra_groups": []}
        return own

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {
            **SETTINGS,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as(),
            )
        until = time.monotonic() + PATIENCE
        probe = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1"]
        while subprocess.run([*probe, "-p", str(self.port)], check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, with its connections."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
