"""Processes on this machine: one that is watched, and a Prometheus that watches.

Both end with their input, so that neither outlives the test run, however it ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest
from prometheus_client.parser import text_string_to_metric_families

# What Prometheus adds to what it scrapes.
SCRAPED = {"job": "app", "instance": "127.0.0.1:1"}

# Runs a program until its input ends. NB: a background job's own input is
# /dev/null, so that of the shell is handed over as another file.
WHILE_THERE_IS_INPUT = (
    'exec 3<&0; "$@" & child=$!; { read -r _ <&3; kill "$child"; } & wait "$child"'
)


def tool(name: str) -> str:
    """Where a program of Prometheus is; without it, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is missing: it is in Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def get(url: str, **query: str) -> str:
    """What a server on this machine answers."""
    opener = build_opener(ProxyHandler({}))
    # NB: a Prometheus that listens may still be reading its log, and says 503.
    for _ in range(300):
        try:
            with opener.open(f"{url}?{urlencode(query)}", timeout=30) as response:
                return str(response.read(), "utf-8")
        except HTTPError as error:
            if error.code != 503:
                raise
            error.close()
            time.sleep(0.1)
    raise TimeoutError(f"{url} answers 503 for 30 s")


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What a condition returns once it is anything."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > limit:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.1)
    return found


@contextmanager
def running(
    *command: str, output: int | IO[bytes], errors: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that ends with its input."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        text=True,
        start_new_session=True,  # Ctrl-C is for us, and we end it
    ) as process:
        try:
            yield process
        finally:
            try:
                process.communicate(timeout=30)
            finally:
                process.kill()


class App:
    """The process of served.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self.port = int(self._output.readline())

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[App]:
        """Have one run."""
        script = str(Path(__file__).with_name("served.py"))
        with running(sys.executable, script, output=subprocess.PIPE) as process:
            yield cls(process)

    def say(self, word: str) -> None:
        """Have its dependency `break` or `mend`."""
        self._input.write(f"{word}\n")
        self._input.flush()
        assert f"{word}\n" == self._output.readline()

    def series(self) -> list[dict[str, str]]:
        """The labels of what it emits, names included, as Prometheus has them."""
        text = get(f"http://127.0.0.1:{self.port}/metrics")
        return [
            {**SCRAPED, **sample.labels, "__name__": sample.name}
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]


class Server:
    """A Prometheus."""

    def __init__(self, address: str) -> None:
        self._api = f"http://{address}/api/v1"

    @classmethod
    @contextmanager
    def running(cls, folder: Path, config: dict[str, Any]) -> Iterator[Server]:
        """Have one run that keeps everything in a folder, on a free port."""
        path, log = folder / "prometheus.yml", folder / "log"
        path.write_text(json.dumps(config), "utf-8")  # which is YAML, too
        command = (
            tool("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        )
        sh = ("sh", "-c", WHILE_THERE_IS_INPUT, "sh")
        with (
            log.open("wb") as file,
            running(*sh, *command, output=file, errors=file) as process,
        ):

            def address() -> str | None:
                text = log.read_text("utf-8")
                assert process.poll() is None, text
                found = re.search(r'msg="Listening on".* address=(\S+)', text)
                return found and found[1]

            yield cls(until(address, "Prometheus listens"))

    def query(self, expression: str) -> list[Any]:
        """What an expression finds now."""
        answer = json.loads(get(f"{self._api}/query", query=expression))
        return list(answer["data"]["result"])

    def firing(self, name: str) -> list[Any]:
        """The alerts of a name that fire."""
        answer = json.loads(get(f"{self._api}/alerts"))
        return [
            alert
            for alert in answer["data"]["alerts"]
            if alert["state"] == "firing" and alert["labels"]["alertname"] == name
        ]
