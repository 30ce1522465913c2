"""The command line: ``resilient``, or ``python -m resilient``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Final

import resilient

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells count."""

UNREAD: Final = 141
"""Exit code where the reader of the output is gone: 128 + SIGPIPE, likewise."""

DASHBOARDS: Final = ("resilient.dashboard.json", "resilient.rules.yml")
"""What is shipped in ``telemetry/dashboards``, and written out by that name."""


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo, or say what it lacks."""
    if arguments.fleet:
        from resilient._commands.demo_fleet import run as run_fleet

        return run_fleet(arguments.seconds, as_json=arguments.json)
    try:
        from resilient.demo import run, run_replicas
    except ModuleNotFoundError as missing:
        if missing.name != "httpx":
            raise
        sys.exit(
            "resilient demo: the clients are httpx's, which is not installed;"
            " run: python -m pip install 'resilient-pipeline[demo]'"
        )
    act = run_replicas if arguments.replicas else run
    act(arguments.seconds, arguments.seed, as_json=arguments.json)
    return 0


def dashboards(arguments: argparse.Namespace) -> None:
    """Write the dashboard and the alert rules out, or say why not."""
    shipped = resources.files("resilient") / "telemetry" / "dashboards"
    paths = {name: os.path.join(arguments.path, name) for name in DASHBOARDS}
    # NB: all are looked at before one is written: half a set is of no use.
    there = [path for path in paths.values() if os.path.lexists(path)]
    if there and not arguments.force:
        sys.exit(
            f"resilient dashboards: already there: {', '.join(there)};"
            " --force replaces what is"
        )
    try:
        os.makedirs(arguments.path, exist_ok=True)
        for name, path in paths.items():
            content = (shipped / name).read_bytes()
            # NB: removed, not opened: a symbolic link would lead elsewhere.
            if os.path.lexists(path):
                os.unlink(path)
            with open(path, "xb") as file:
                file.write(content)
            sys.stdout.write(f"{path}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.exit(
            f"resilient dashboards: cannot write {error.filename}: {error.strerror}"
        )


def lint(arguments: argparse.Namespace) -> int:
    """Show pipelines, and what defeats itself in them."""
    from resilient._commands.lint import lint

    return lint(arguments.targets)


def migrate(arguments: argparse.Namespace) -> int:
    """Report what to write in the place of another library's retries."""
    from resilient._commands.migrate import migrate

    return migrate(arguments.paths)


def fleet(arguments: argparse.Namespace) -> int:
    """Show what processes share through a server."""
    from resilient._commands.fleet import fleet

    url = arguments.url or os.environ.get("RESILIENT_REDIS_URL")
    if not url:
        sys.exit("resilient fleet: no URL, and RESILIENT_REDIS_URL is not set")
    return fleet(url, arguments.prefix, reset=arguments.reset)


def simulate(arguments: argparse.Namespace) -> int:
    """Put policies through a scenario."""
    from resilient.simulation._command import run

    return run(arguments)


def whole_seconds(text: str) -> int:
    """Read the length of a day."""
    seconds = int(text)
    if seconds < 8:
        raise argparse.ArgumentTypeError(
            f"must be >= 8 seconds, got {seconds}: an outage and the recovery"
            " from it take most of them"
        )
    return seconds


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands. Each names the function that runs it."""
    parser = argparse.ArgumentParser(
        prog="resilient",
        description="Resilience policies that compose: see them at work.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {resilient.__version__}"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    command = commands.add_parser(
        "demo",
        help="a bare and a protected client live through one bad day",
        description=(
            "Start a server on loopback that has a bad day: errors, resets,"
            " stalls, an outage and a recovery. Send the same requests through a"
            " bare httpx client and through a protected one; compare."
        ),
    )
    command.add_argument(
        "--seconds",
        type=whole_seconds,
        default=12,
        metavar="N",
        help="length of the day, >= 8 (default: %(default)s, and up to 3 more"
        " for the last answers)",
    )
    command.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="another seed is another day (default: %(default)s)",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print the figures as JSON; progress goes to stderr",
    )
    acts = command.add_mutually_exclusive_group()
    acts.add_argument(
        "--fleet",
        action="store_true",
        help="four processes that keep one limit through a Redis server, instead, which"
        " is killed and loses its data on the way",
    )
    acts.add_argument(
        "--replicas",
        action="store_true",
        help="four replicas, of which one is slow, one dead and one rolled, asked in"
        " turn and by a Balance, instead",
    )
    command.set_defaults(command=demo)

    command = commands.add_parser(
        "dashboards",
        help="write out a Grafana dashboard and Prometheus alert rules",
        description=(
            f"Write {DASHBOARDS[0]}, to import into Grafana, and {DASHBOARDS[1]},"
            " to name in Prometheus's rule_files, into a folder. They show and"
            " watch what resilient.telemetry.instrument() measures."
        ),
    )
    command.add_argument(
        "path", metavar="PATH", help="the folder; it is made where there is none"
    )
    command.add_argument(
        "--force", action="store_true", help="replace what is there by those names"
    )
    command.set_defaults(command=dashboards)

    command = commands.add_parser(
        "lint",
        help="show a pipeline as a tree, and what defeats itself in it",
        description=(
            "Import policies, print what stands inside what, and every order or"
            " number that defeats itself. Exit code 1: there is one; 2: there is"
            " no such policy."
        ),
    )
    command.add_argument(
        "targets",
        nargs="+",
        metavar="MODULE[:NAME]",
        help="a policy or a decorated function; without a name, all at the top"
        " of the module",
    )
    command.set_defaults(command=lint)

    command = commands.add_parser(
        "migrate",
        help="show what to write in the place of tenacity, backoff or stamina",
        description=(
            "Read Python files, without running them, and report each use of"
            " tenacity, backoff and stamina: its line, what to write instead and"
            " what changes. Nothing is rewritten. Exit code 1: there is a use; 2: a"
            " path or a file cannot be read."
        ),
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, or a folder of which all *.py files are read",
    )
    command.set_defaults(command=migrate)

    command = commands.add_parser(
        "simulate",
        help="see what a configuration does in an outage",
        description=(
            "Put policies through a scenario in virtual time, and show what they"
            " came to. Without a policy: the library's defaults and naive retries."
            " Exit code 1: a check failed; 2: an argument, a file or a policy is"
            " wrong."
        ),
    )
    command.add_argument(
        "scenario",
        nargs="?",
        metavar="SCENARIO",
        help="one that is built in, or a file (default: retry-storm)",
    )
    command.add_argument(
        "-p",
        "--policy",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a policy or decorated function; several are compared",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="POLICY.PARAMETER=VALUE",
        help="compare with this change too, as in retry.attempts=2",
    )
    command.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="POLICY.PARAMETER=V1,V2",
        help="compare with each of these values too; of several each combination",
    )
    command.add_argument(
        "--choose",
        action="append",
        default=[],
        metavar="POLICY.PARAMETER=V1,V2",
        help="find the best of these values, as in retry.attempts=1..3",
    )
    command.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="runs of each configuration (default: %(default)s)",
    )
    command.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that do the runs, with the same results (default: %(default)s)",
    )
    command.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="NAME=LIMIT",
        help="exit with 1 unless it holds for the last configuration, as in"
        " recovers_within=30",
    )
    command.add_argument(
        "--replay",
        metavar="FILE",
        help="replay recorded requests: CSV, JSON lines or a log",
    )
    command.add_argument(
        "--replay-as",
        choices=("outcomes", "load"),
        default="outcomes",
        help="whether their answers are given again, which changes nothing at the"
        " server, or only their moments are (default: %(default)s)",
    )
    command.add_argument(
        "--format",
        choices=("csv", "jsonl", "nginx", "envoy", "otel-spans"),
        help="of the file of --replay; by default what its first line looks like",
    )
    command.add_argument(
        "--servers",
        type=int,
        metavar="N",
        help="with --replay-as load: on how many requests the dependency works at once",
    )
    command.add_argument("--html", metavar="FILE", help="write a page with plots")
    command.add_argument("--json", metavar="FILE", help="write figures and series")
    command.add_argument(
        "--list", action="store_true", help="name the scenarios that are built in"
    )
    command.add_argument(
        "--print", action="store_true", help="print the file of the scenario"
    )
    command.add_argument(
        "--schema",
        action="store_true",
        help="print the JSON Schema of scenario files, for an editor",
    )
    command.add_argument(
        "--yes", action="store_true", help="simulate for hours if it takes that"
    )
    command.set_defaults(command=simulate)

    command = commands.add_parser(
        "fleet",
        help="show what processes share through a Redis or Valkey server",
        description=(
            "List every policy that is shared under a prefix, how many processes"
            " were seen of it in the last minute, and its state. Nothing is"
            " changed without --reset. Exit code 1: the server cannot be asked, or"
            " there is nothing to reset."
        ),
    )
    command.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="of the server; by default RESILIENT_REDIS_URL, which shows no password",
    )
    command.add_argument(
        "--prefix",
        default="resilient",
        metavar="TEXT",
        help="the store's (default: %(default)s)",
    )
    command.add_argument(
        "--reset",
        metavar="NAME",
        help="fill the bucket and the budget of that name and close its circuit,"
        " for all processes and all keys of a PerKey, before; NAME:KEY as it is"
        " listed is one key",
    )
    command.set_defaults(command=fleet)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, say which there are.

    Args:
        arguments: The words after the program's name; None: those that this
            process was started with.

    Returns:
        The exit code.
    """
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if "command" not in parsed:
        parser.print_help()
        return 0
    unread = False
    code: int | None = None
    try:
        try:
            code = parsed.command(parsed)
            sys.stdout.flush()
        except* BrokenPipeError:
            # NB: a group where a task printed.
            unread = True
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return INTERRUPTED
    if unread:
        # NB: the interpreter flushes it once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
