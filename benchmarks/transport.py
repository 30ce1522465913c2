"""What the transport costs, as a share of the bare client's call.

A mock transport answers at once, so all the time there is is the client's and
ours. Contenders take turns as in ``cost.py``, and see `_cost.rounds` for how
what they take is compared: the median of the rounds' ratios, and its quartiles.

    python benchmarks/transport.py [--rounds N] [--family NAME] [--json]
    python benchmarks/transport.py --instructions

The second counts instructions instead, by valgrind, which has to be installed:
they tell apart what time cannot, and say little of what a cache miss costs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from _cost import http_by_hand
from _cost.rounds import Ratio, measure
from _cost.scenes import Contender, Scene
from _cost.workloads import ASYNCIO, SYNC, Function

from resilient import Pipeline

URL = "https://api.test/things"
FAMILIES = ("httpx2", "httpx")
COLOURS = ("asyncio", "sync")

JSON = b'{"id": 7, "name": "a thing", "tags": ["red", "small"]}'
HEADERS = [
    (b"date", b"Mon, 06 Jul 2026 09:00:00 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(JSON)).encode()),
    (b"server", b"mock"),
]

BARE = "bare"
OTHERS = ("by hand", "empty pipeline", "standard pipeline")

# Calls that are counted: each takes the same path, and few are enough.
COUNTED = 200


def answers(library: Any) -> dict[str, Callable[[Any], Any]]:
    """Return what a server may say, by name, as functions of the request."""

    class Wire(library.SyncByteStream, library.AsyncByteStream):
        """A body that is still to be read, as a connection's is."""

        def __iter__(self) -> Iterator[bytes]:
            yield JSON

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield JSON

    return {
        "no body": lambda request: library.Response(200),
        "JSON": lambda request: library.Response(200, headers=HEADERS, content=JSON),
        "JSON to be read": lambda request: library.Response(
            200, headers=HEADERS, stream=Wire()
        ),
    }


def scene(family: str, colour: str, answer: str) -> Scene:
    """Return who is compared: the bare call, and what may be around it."""
    library: Any = importlib.import_module(family)
    ours: Any = importlib.import_module(f"resilient.{family}")
    mock = library.MockTransport(answers(library)[answer])

    def call(transport: Any) -> Function:
        if colour == "sync":
            client = library.Client(transport=transport)
            return lambda x: client.get(URL)
        client = library.AsyncClient(transport=transport)
        return lambda x: client.get(URL)

    made = http_by_hand.synchronous if colour == "sync" else http_by_hand.asynchronous
    around = (
        made(library, mock),
        ours.ResilientTransport(Pipeline(), inner=mock),
        ours.ResilientTransport(inner=mock),
    )
    return Scene(
        family,
        answer,
        SYNC if colour == "sync" else ASYNCIO,
        [
            Contender(BARE, call(mock)),
            *(
                Contender(name, call(transport))
                for name, transport in zip(OTHERS, around, strict=True)
            ),
        ],
    )


def scenes(families: tuple[str, ...]) -> Iterator[Scene]:
    """Every family in every colour with every answer."""
    for family in families:
        for colour in COLOURS:
            for answer in answers(importlib.import_module(family)):
                yield scene(family, colour, answer)


def take_turns(families: tuple[str, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """Measure times: microseconds of the bare call, and shares beyond it."""
    for scene in scenes(families):
        # NB: or a collection would be timed with the contender that runs then.
        gc.disable()
        times = scene.world.run(measure(scene, rounds))
        gc.enable()
        gc.collect()
        bare = Ratio.of([seconds * 1e6 for seconds in times.rounds[BARE]])
        row = {"microseconds": bare.median}
        for name in OTHERS:
            whole = times.whole(name, BARE)
            row[name] = [whole.median - 1, whole.low - 1, whole.high - 1]
        yield {"scene": [scene.group, scene.world.name, scene.case], **row}


# -- Instructions


async def run_counted(families: tuple[str, ...]) -> None:
    """Let everyone make its calls, each between two calls of `getppid`.

    What goes on before and between is counted too, and thrown away.
    """
    # NB: a collection would be counted with the contender that runs then.
    gc.disable()
    for scene in scenes(families):
        for contender in scene.contenders:
            call = contender.call
            for counted in (20, COUNTED):
                os.getppid()
                for x in range(counted):
                    answer = call(x)
                    if not scene.world.sync:
                        await answer
            os.getppid()


def count(families: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Have valgrind count: thousands of instructions a call, and the shares."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                "--dump-before=getppid",
                f"--callgrind-out-file={directory}/out",
                sys.executable,
                __file__,
                "--counted",
                *families,
            ],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        counts = [
            int(re.findall(r"^(?:summary|totals): (\d+)", dump.read_text(), re.M)[0])
            for dump in sorted(
                Path(directory).glob("out.*"), key=lambda dump: int(dump.suffix[1:])
            )
        ]
    # Before, and then of each contender: its first calls, all others, the way on.
    contended = iter(counts[2::3])
    for scene in scenes(families):
        bare, *others = (next(contended) / COUNTED / 1000 for _ in scene.contenders)
        row: dict[str, Any] = {"kilo-instructions": bare}
        for name, own in zip(OTHERS, others, strict=True):
            row[name] = [own / bare - 1, own - bare]
        yield {"scene": [scene.group, scene.world.name, scene.case], **row}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--counted", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.counted:
        asyncio.run(run_counted(tuple(options.counted)))
        return
    families = tuple(options.family or FAMILIES)
    rows = (
        count(families)
        if options.instructions
        else take_turns(families, options.rounds)
    )
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], "rows": list(rows)}))
        return
    print(f"Python {sys.version.split()[0]}, more than the bare call\n")
    unit = "kilo-instructions" if options.instructions else "microseconds"
    print(f"{'':32}{unit:>18}" + "".join(f"{name:>26}" for name in OTHERS))
    for row in rows:
        cells = "".join(f"{_spelt(row[name]):>26}" for name in OTHERS)
        print(f"{', '.join(row['scene']):32}{row[unit]:>18.1f}{cells}", flush=True)


def _spelt(share: list[float]) -> str:
    if len(share) == 2:
        return f"{share[0]:.1%} ({share[1]:.1f})"
    return f"{share[0]:.1%} ({share[1]:.1%}–{share[2]:.1%})"


if __name__ == "__main__":
    main()
