"""``resilient migrate``: what to write in the place of another library's retries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resilient
from resilient.__main__ import main

TYPES = "retry=retry_if_exception_type(OSError), reraise=True"
TWICE = "stop=stop_after_attempt(2)"
"""Parts of a call of tenacity's that are not what a test is about."""


def migrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str | bytes
) -> tuple[int, list[str]]:
    """Run the command on one file; return its exit code, and what it printed."""
    path = tmp_path / "old.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    code = main(["migrate", str(path)])
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).replace(f"{path}", "old.py").splitlines()
    return code, lines


def written(lines: list[str]) -> list[str]:
    """What is to be written, of each use."""
    said = [line.strip().partition("  ") for line in lines]
    return [text.strip() for word, _, text in said if word == "write"]


def told(lines: list[str], word: str) -> str:
    """What is said after a word, of all uses."""
    return "\n".join(line for line in lines if line.startswith(f"  {word}"))


def test_a_use_is_reported_with_what_to_write_and_what_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file and line first, as compilers do; the exit code is 1."""
    source = (
        "import tenacity\n\n"
        "@tenacity.retry(stop=tenacity.stop_after_attempt(5), before=print)\n"
        "def fetch(): ...\n"
    )

    code, lines = migrated(tmp_path, capsys, source)

    assert (1, source) == (code, (tmp_path / "old.py").read_text())
    assert [
        "old.py:3: tenacity.retry",
        "  write    @Retry(Exception, attempts=5, backoff=constant(0))",
        "  import   from resilient import Retry, constant",
        "  changes  every Exception is retried, as before: list those that another try"
        " can mend",
        "  changes  the last error comes as it was, in no RetryError",
        "  by hand  `before=`: before_retry= runs before each further attempt",
        "tenacity: its defaults, every Exception, for ever, without a pause, are spelt"
        " out; Retry has 3 attempts, with pauses, of what is listed.",
        "Retries are on a budget: when most calls fail, most retries are left out;"
        " budget=None turns that off.",
        "What a Retry further in gave up on is not retried again; an open circuit and"
        " other rejections only where they are listed by name.",
        "1 use in 1 file: 1 of tenacity; nothing was changed",
    ] == lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"{TYPES}, {TWICE}", "OSError, attempts=2, backoff=constant(0)"),
        (
            f"retry=retry_if_exception_type((OSError, KeyError)), {TWICE}",
            "OSError, KeyError, attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_type(BaseException), {TWICE}",
            "Exception, attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_type(ERRORS), {TWICE}",
            "on=ERRORS, attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_type([*A, *B, OSError]), {TWICE}",
            "OSError, on=(A, B), attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_type() | retry_if_exception(f), {TWICE}",
            "Exception, on=lambda outcome: (outcome.error is not None and"
            " f(outcome.error)), attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_type(ERRORS) | retry_if_exception(f), {TWICE}",
            "on=lambda outcome: isinstance(outcome.error, ERRORS) or"
            " (outcome.error is not None and f(outcome.error)), attempts=2,"
            " backoff=constant(0)",
        ),
        (
            f"retry=retry_if_not_exception_type(KeyError), {TWICE}",
            "on=lambda outcome: (outcome.error is not None and"
            " not isinstance(outcome.error, KeyError)), attempts=2,"
            " backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception(lambda e: e.a or e.b), {TWICE}",
            "on=lambda outcome: (outcome.error is not None and"
            " (outcome.error.a or outcome.error.b)), attempts=2, backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception(lambda e, *, a=1: e.a), {TWICE}",
            "on=lambda outcome: (outcome.error is not None and"
            " (lambda e, *, a=1: e.a)(outcome.error)), attempts=2,"
            " backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_message(match='busy'), {TWICE}",
            "on=lambda outcome: (outcome.error is not None and"
            " bool(re.match('busy', str(outcome.error)))), attempts=2,"
            " backoff=constant(0)",
        ),
        (
            f"retry=retry_if_exception_message(message='busy'), {TWICE}",
            "on=lambda outcome: (outcome.error is not None and"
            " bool(str(outcome.error) == 'busy')), attempts=2, backoff=constant(0)",
        ),
        (
            "retry=retry_any(retry_if_result(is_bad), retry_if_not_result(bool)),"
            f" {TWICE}",
            "on_result=lambda value: is_bad(value) or not bool(value), attempts=2,"
            " backoff=constant(0)",
        ),
        (
            f"retry=retry_all(retry_if_result(is_bad)), {TWICE}",
            "..., attempts=2, backoff=constant(0)",
        ),
        (f"retry=condition, {TWICE}", "..., attempts=2, backoff=constant(0)"),
    ],
)
def test_what_tenacity_retries(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conditions become types, or functions of the outcome or the value."""
    source = f"from tenacity import *\nr = retry({old})"

    code, lines = migrated(tmp_path, capsys, source)

    assert (1, [f"Retry({new})"]) == (code, written(lines))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stop=stop_after_attempt(5)", "attempts=5"),
        ("stop=stop_before_delay(30)", "attempts=None, within=30"),
        ("stop=stop_after_delay(30)", "attempts=None, within=30"),
        (
            "stop=stop_after_attempt(N) | stop_before_delay(2 * 60)",
            "attempts=N, within=2 * 60",
        ),
        (
            "stop=stop_any(stop_before_delay(9), stop_after_attempt(2))",
            "attempts=2, within=9",
        ),
        ("stop=stop_never", "attempts=None, within=math.inf"),
        ("", "attempts=None, within=math.inf"),
        ("stop=stop_after_attempt(5) | stop_after_attempt(6)", "attempts=3"),
        ("stop=stop_all(a, b)", "attempts=3"),
        ("stop=stop_when_event_set(event)", "attempts=3"),
        ("stop=stop", "attempts=3"),
    ],
)
def test_when_tenacity_stops(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read is 3 attempts, and said."""
    source = f"from tenacity import *\nr = retry({TYPES}, {old})"

    _, lines = migrated(tmp_path, capsys, source)

    assert [f"Retry(OSError, {new}, backoff=constant(0))"] == written(lines)
    assert (new == "attempts=3") == ("`stop=" in told(lines, "by hand"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("None", "constant(0)"),
        ("wait_none()", "constant(0)"),
        ("wait_fixed(2)", "constant(2)"),
        ("wait_fixed(wait=timedelta(seconds=2))", "constant(timedelta(seconds=2))"),
        ("wait_random()", "lambda attempt: random.uniform(0, 1)"),
        ("wait_random(1, max=4)", "lambda attempt: random.uniform(1, 4)"),
        (
            "wait_fixed(3) + wait_random(0, 2)",
            "lambda attempt: 3 + random.uniform(0, 2)",
        ),
        (
            "wait_combine(wait_fixed(3), wait_exponential(max=9, min=2))",
            'lambda attempt: 3 + max(2, exponential(1, cap=9, jitter="none")(attempt))',
        ),
        (
            "wait_fixed(3) + wait_exponential(max=9)",
            'lambda attempt: 3 + exponential(1, cap=9, jitter="none")(attempt)',
        ),
        ("wait_incrementing(1, 2, 9)", 'linear(1, step=2, cap=9, jitter="none")'),
        ("wait_incrementing()", 'linear(0, step=100, cap=3600, jitter="none")'),
        (
            "wait_exponential(multiplier=1, max=10)",
            'exponential(1, cap=10, jitter="none")',
        ),
        (
            "wait_exponential(multiplier=0.5, exp_base=3, max=10, min=0)",
            'exponential(0.5, factor=3, cap=10, jitter="none")',
        ),
        ("wait_exponential()", 'exponential(1, jitter="none")'),
        ("wait_exponential(60)", 'exponential(60, cap=3600, jitter="none")'),
        ("wait_exponential(BASE)", 'exponential(BASE, cap=3600, jitter="none")'),
        (
            "wait_exponential(multiplier=1, min=4, max=10)",
            'lambda attempt: max(4, exponential(1, cap=10, jitter="none")(attempt))',
        ),
        (
            "wait_random_exponential(multiplier=0.1, max=20)",
            "exponential(0.1, cap=20)",
        ),
        (
            "wait_full_jitter(min=1, max=20)",
            "lambda attempt: random.uniform(1, exponential(1, cap=20,"
            ' jitter="none")(attempt))',
        ),
        (
            "wait_exponential_jitter(max=9, min=1)",
            'lambda attempt: max(1, min(9, exponential(1, cap=9, jitter="none")'
            "(attempt) + random.uniform(0, 1)))",
        ),
        (
            "wait_exponential_jitter(2, jitter=3)",
            'lambda attempt: exponential(2, jitter="none")(attempt)'
            " + random.uniform(0, 3)",
        ),
        ("wait_chain(wait_fixed(1), wait_fixed(5))", "delays([1, 5])"),
        ("wait_chain(wait_fixed(1), wait_random(5))", "..."),
        ("wait_chain(*waits)", "..."),
        ("wait_fixed()", "..."),
        ("wait_fixed(*some)", "..."),
        ("wait_exception(f)", "..."),
        ("my_wait", "..."),
        ("lambda state: 3", "..."),
    ],
)
def test_how_tenacity_waits(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wait without a counterpart is left to its author."""
    source = f"from tenacity import *\nr = retry({TYPES}, {TWICE}, wait={old})"

    _, lines = migrated(tmp_path, capsys, source)

    assert [f"Retry(OSError, attempts=2, backoff={new})"] == written(lines)
    assert (new == "...") == ("`wait=" in told(lines, "by hand"))


@pytest.mark.parametrize(
    "lines",
    [
        "import tenacity\n@tenacity.retry\ndef f(): ...",
        "import tenacity as t\n@t.retry()\ndef f(): ...",
        "import tenacity.asyncio\n@tenacity.retry()\ndef f(): ...",
        "import tenacity.retry as r\nimport tenacity as t\n@t.retry()\ndef f(): ...",
        "from tenacity import retry\n@retry\ndef f(): ...",
        "from tenacity import retry as again\n@again()\nasync def f(): ...",
        "from tenacity import *\n@retry\ndef f(): ...",
        "def g():\n  from tenacity import retry\n  @retry\n  def f(): ...",
        "import tenacity\nr = tenacity.retry\n@r\ndef f(): ...",
        "@retry\ndef f(): ...\nfrom tenacity import retry",
        "try:\n  from tenacity import retry\nexcept ImportError:\n  retry = None\n"
        "class C:\n  @retry\n  def f(self) -> int: ...",
    ],
)
def test_a_decorator_is_found_however_it_is_imported(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Aliases, stars, imports in functions and other names for it included."""
    _, printed = migrated(tmp_path, capsys, lines)

    assert [
        "@Retry(Exception, attempts=None, within=math.inf, backoff=constant(0))"
    ] == written(printed)
    assert "from resilient import Retry, constant; import math" in told(
        printed, "import"
    )


@pytest.mark.parametrize(
    "lines",
    [
        "@retry\ndef f(): ...",
        "from .tenacity import retry\n@retry\ndef f(): ...",
        "from retrying import *\n@retry\ndef f(): ...",
        "import tenacity_of_ours as tenacity\n@tenacity.retry\ndef f(): ...",
        "retry = 1; print('tenacity', 'tenacity.org x')",
        "",
    ],
)
def test_what_is_of_another_library_is_no_use(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says so."""
    assert (0, ["no uses in 1 file; nothing was changed"]) == migrated(
        tmp_path, capsys, lines
    )


@pytest.mark.parametrize(
    "lines",
    [
        "def g(retry):\n  @retry\n  def f(): ...",
        "def g(*retry, **t): return t.retry(retry)",
        "g = lambda retry: retry()",
        "def g():\n  retry = 1\n  return retry",
        "class C:\n  retry = 1\n  x = retry",
    ],
)
def test_a_name_of_an_inner_scope_is_no_use(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only that it is imported for nothing is said."""
    _, printed = migrated(tmp_path, capsys, f"from tenacity import retry\n{lines}")

    assert [
        "old.py:1: tenacity",
        "  by hand  it is imported here, and not used in this file",
    ] == printed[:2]


def test_the_names_of_a_class_are_not_those_of_its_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a method says `retry`, it means the module's."""
    source = (
        "from tenacity import retry\n"
        "class C(Base, metaclass=M):\n"
        "  retry = 1\n"
        "  def m(self, x=lambda: 1) -> int: return retry(fetch)\n"
    )

    _, lines = migrated(tmp_path, capsys, source)

    assert [
        "Retry(Exception, attempts=None, within=math.inf, backoff=constant(0))(fetch)"
    ] == written(lines)


def test_loops_and_calls_of_tenacity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`Retrying` is `attempts()`, or `call`."""
    source = (
        "from tenacity import *\n"
        f"for attempt in Retrying({TYPES}, {TWICE}):\n"
        "    with attempt: ...\n"
        "else: ...\n"
        "async def g():\n"
        f"    async for attempt in AsyncRetrying({TYPES}, {TWICE}):\n"
        "        with attempt: ...\n"
        f"Retrying({TYPES}, {TWICE})(f, 7, key=8)\n"
        "for other in [1]: ...\n"
        f"for attempt in Retrying(retry=retry_if_result(bad), {TWICE}): ...\n"
        f"r = Retrying(None, stop_after_attempt(2), *more, **options)\n"
        "f = functools.partial(retry, reraise=True)\n"
    )
    made = "Retry(OSError, attempts=2, backoff=constant(0))"

    _, lines = migrated(tmp_path, capsys, source)

    assert [
        f"for attempt in {made}.attempts():",
        f"async for attempt in {made}.attempts():",
        f"{made}.call",
        "for attempt in Retry(on_result=lambda value: bad(value), attempts=2,"
        " backoff=constant(0)).attempts():",
        "Retry(Exception, attempts=2, backoff=constant(0))",
    ] == written(lines)
    assert "write `async with attempt:`" in told(lines, "changes")
    by_hand = told(lines, "by hand")
    for text in ("`on_result` cannot see", "`*more`: what", "`**options`: what"):
        assert text in by_hand
    assert "`retry`: in tests" in by_hand


def test_what_surrounds_tenacity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its errors, what it adds to functions, and names that stand in text."""
    source = (
        "import importlib, tenacity\n"
        "from tenacity import retry, stop_after_attempt\n"
        "@retry(stop=stop_after_attempt(1), enabled=True, sleep=nap)\n"
        "def f(): ...\n"
        "try: f()\n"
        "except tenacity.RetryError: ...\n"
        "f.retry_with(stop=stop_after_attempt(4))()\n"
        "f.statistics, other.statistics, f.name, g().statistics\n"
        "WAIT = tenacity.wait_fixed(2); LONG = tenacity.wait_exponential()\n"
        "STOP = tenacity.stop_after_delay(2); use(tenacity.stop_never)\n"
        "IF = tenacity.retry_if_result(None.__eq__); BAD = tenacity.wait_chain(1)\n"
        "patch('tenacity.nap.time'); importlib.import_module('tenacity')\n"
        "use(tenacity)\n"
    )

    _, lines = migrated(tmp_path, capsys, source)

    assert [
        "@Retry(Exception, attempts=1, backoff=constant(0))",
        "attempts=4",
        "backoff=constant(2)",
        'backoff=exponential(1, jitter="none")',
        "within=2",
        "on_result=lambda value: None.__eq__(value)",
    ] == written(lines)
    by_hand = told(lines, "by hand")
    for text in (
        "`sleep=`: leave it out",
        "`RetryError`: the last error comes as it was",
        "`retry_with`: decorate",
        "`statistics`: listen",
        "`stop_never`: look at it by hand",
        "`wait_chain`: look at it by hand",
        "named as text",
        "the whole module is passed on",
    ):
        assert text in by_hand
    assert "enabled" not in by_hand
    assert 2 == by_hand.count("named as text")
    assert 1 == by_hand.count("`statistics`")


PAUSES = "backoff=exponential(0.1, cap=5)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("retry(on=OSError)", f"OSError, attempts=10, within=45, {PAUSES}"),
        (
            "retry(on=(OSError, socket.timeout), attempts=3, timeout=None)",
            f"OSError, socket.timeout, attempts=3, {PAUSES}",
        ),
        (
            "retry(on=OSError, attempts=None)",
            f"OSError, attempts=None, within=45, {PAUSES}",
        ),
        (
            "retry(on=OSError, attempts=None, timeout=None)",
            f"OSError, attempts=None, within=math.inf, {PAUSES}",
        ),
        (
            "retry(on=OSError, wait_initial=1, wait_max=9, wait_exp_base=3)",
            "OSError, attempts=10, within=45, backoff=exponential(1, factor=3, cap=9)",
        ),
        (
            "retry(on=hook)",
            "on=lambda outcome: (outcome.error is not None and"
            f" hook(outcome.error)), attempts=10, within=45, {PAUSES}",
        ),
        (
            "retry(on=lambda e: e.errno == 2)",
            "on=lambda outcome: (outcome.error is not None and"
            f" outcome.error.errno == 2), attempts=10, within=45, {PAUSES}",
        ),
        ("retry(on=imported)", f"on=imported, attempts=10, within=45, {PAUSES}"),
        ("RetryingCaller(5)", f"..., attempts=5, within=45, {PAUSES}"),
        ("retry(**options)", f"..., attempts=10, within=45, {PAUSES}"),
        (
            f"retry(on={'Some' * 100})",
            f"..., attempts=10, within=45, {PAUSES}",
        ),
    ],
)
def test_what_stamina_does(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its defaults are spelt out; a function is told of from the types of errors."""
    source = f"import stamina\ndef hook(error): ...\nr = stamina.{old}"

    code, lines = migrated(tmp_path, capsys, source)

    assert (1, [f"Retry({new})"]) == (code, written(lines))


def test_loops_and_switches_of_stamina(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A context is a loop of attempts."""
    source = (
        "import stamina\n"
        "for a in stamina.retry_context(on=OSError, wait_jitter=0): ...\n"
        "async def f():\n"
        "  async for a in stamina.retry_context(on=OSError): ...\n"
        "stamina.set_active(False)\n"
        "stamina.instrumentation.set_on_retry_hooks([])\n"
        "stamina.retry\n"
    )
    made = f"Retry(OSError, attempts=10, within=45, {PAUSES})"

    _, lines = migrated(tmp_path, capsys, source)

    assert [
        f"for attempt in {made}.attempts():",
        f"async for attempt in {made}.attempts():",
    ] == written(lines)
    assert "there up to 0 s was added" in told(lines, "changes")
    assert [
        "  by hand  `set_active`: resilient.testing.off() around what is to try once",
        "  by hand  `set_on_retry_hooks`: a listener for RetryScheduled",
        "  by hand  `retry`: look at it by hand: it is passed on, or has no"
        " counterpart",
    ] == told(lines, "by hand").splitlines()


FOREVER = "attempts=None, within=math.inf"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "on_exception(backoff.expo, OSError, max_tries=5)",
            "OSError, attempts=5, backoff=exponential(1)",
        ),
        (
            "on_exception(backoff.expo, OSError, max_time=60, base=3, factor=2,"
            " max_value=9, jitter=None)",
            "OSError, attempts=None, within=60, backoff=exponential(2, factor=3,"
            ' cap=9, jitter="none")',
        ),
        (
            "on_exception(backoff.expo, OSError, jitter=backoff.random_jitter)",
            f'OSError, {FOREVER}, backoff=lambda attempt: exponential(1, jitter="none")'
            "(attempt) + random.uniform(0, 1)",
        ),
        (
            "on_exception(backoff.constant, OSError, max_tries=None)",
            f'OSError, {FOREVER}, backoff=constant(1, jitter="full")',
        ),
        (
            "on_exception(backoff.constant, OSError, interval=2, jitter=None)",
            f"OSError, {FOREVER}, backoff=constant(2)",
        ),
        (
            "on_exception(backoff.fibo, OSError, jitter=None)",
            f"OSError, {FOREVER}, backoff=delays([1, 1, 2, 3, 5, 8, 13, 21, 34, 55,"
            " 89])",
        ),
        (
            "on_exception(backoff.fibo, OSError)",
            f"OSError, {FOREVER}, backoff=lambda attempt: random.uniform(0, delays("
            "[1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])(attempt))",
        ),
        (
            "on_exception(backoff.expo, (OSError, ERRORS), giveup=is_final)",
            "on=lambda outcome: isinstance(outcome.error, (OSError, ERRORS)) and not"
            f" is_final(outcome.error), {FOREVER}, backoff=exponential(1)",
        ),
        (
            "on_predicate(backoff.expo)",
            f"on_result=lambda value: not value, {FOREVER}, backoff=exponential(1)",
        ),
        (
            "on_predicate(backoff.expo, lambda x: x == [])",
            f"on_result=lambda value: value == [], {FOREVER}, backoff=exponential(1)",
        ),
        ("on_exception(backoff.runtime, OSError)", f"OSError, {FOREVER}, backoff=..."),
        (
            "on_exception(backoff.fibo, OSError, max_value=9)",
            f"OSError, {FOREVER}, backoff=...",
        ),
        (
            "on_exception(backoff.constant, OSError, interval=[1, 2])",
            f"OSError, {FOREVER}, backoff=...",
        ),
        (
            "on_exception(backoff.expo, OSError, max_value=lambda: 9)",
            f"OSError, {FOREVER}, backoff=...",
        ),
        (
            "on_exception(backoff.expo, OSError, jitter=mine)",
            f"OSError, {FOREVER}, backoff=...",
        ),
        (
            "on_exception(backoff.expo, OSError, max_tries=lambda: 3)",
            "OSError, attempts=..., backoff=exponential(1)",
        ),
        ("on_exception(*some)", f"..., {FOREVER}, backoff=..."),
    ],
)
def test_what_backoff_does(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Generators and jitter become one backoff."""
    source = f"import backoff\n@backoff.{old}\ndef f(): ..."

    _, lines = migrated(tmp_path, capsys, source)

    assert [f"@Retry({new})"] == written(lines)


def test_what_surrounds_backoff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Handlers are listeners; a True or None says what is so anyway."""
    source = (
        "import backoff, logging\n"
        "@backoff.on_exception(backoff.runtime, OSError, on_backoff=print,"
        " raise_on_giveup=True, logger=None)\n"
        "def f(): ...\n"
        "g = backoff.full_jitter, backoff.expo\n"
        "logging.getLogger('backoff')\n"
    )

    _, lines = migrated(tmp_path, capsys, source)

    by_hand = told(lines, "by hand")
    assert "a listener for RetryScheduled" in by_hand
    assert "an on= that returns seconds" in by_hand
    assert "`full_jitter`: `jitter=` of" in by_hand
    assert "`expo`: look at it by hand" in by_hand
    assert "named as text" in by_hand
    assert "raise_on_giveup" not in by_hand
    assert "logger" not in by_hand


def test_a_folder_is_read_without_what_is_not_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hidden folders, environments and what is no Python file are left out."""
    use = "import tenacity"
    for name in ("b/deep/x.py", "a.py", ".git/x.py", "env/x.py", "__pycache__/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(use)
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / "page.md").write_text(use)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.py").symlink_to(tmp_path / "nowhere")

    assert 1 == main(["migrate", str(tmp_path)])

    out = capsys.readouterr().out
    found = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert [f"{tmp_path}/a.py:1: tenacity", f"{tmp_path}/b/deep/x.py:1: tenacity"] == [
        line.replace(os.sep, "/") for line in found
    ]
    assert out.endswith("2 uses in 2 files: 2 of tenacity; nothing was changed\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"print 'no'", "not Python 3: line 1: "),
        (b"# coding: klingon\n", "not Python 3: "),
        (b"x = " + b"(" * 99_999, ""),
        (b"x = " + b"-" * 20_000 + b"1", ""),
        (b"x = " + b"a." * 900 + b"b", "nested too deeply"),
        (b"x\0y", ""),
        (b"#" * 1_000_001, "larger than 1000000 bytes"),
    ],
)
def test_what_cannot_be_parsed_is_told(
    content: bytes,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The others are read all the same, and the exit code is 2."""
    (tmp_path / "bad.py").write_bytes(content)
    (tmp_path / "good.py").write_text("import tenacity")

    assert 2 == main(["migrate", str(tmp_path)])

    printed = capsys.readouterr()
    assert printed.err.startswith(f"resilient migrate: {tmp_path / 'bad.py'}: {text}")
    assert 1 == printed.err.count("\n")
    assert "good.py:1: tenacity" in printed.out


def test_a_path_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name."""
    assert 2 == main(["migrate", str(tmp_path / "none.py")])

    assert (
        f"resilient migrate: {tmp_path / 'none.py'}: No such file or directory\n"
        == capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As who may not look into it is."""

    def refuse(path: object) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert 2 == main(["migrate", str(tmp_path)])

    assert (
        f"resilient migrate: {tmp_path}: Permission denied\n" == capsys.readouterr().err
    )


def test_nothing_that_a_terminal_obeys_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a name of a file nor in the code that is repeated."""
    (tmp_path / "a\x1b[31m.py").write_text(
        "import stamina\nr = stamina.retry(on=lambda e: f'''\x1b]0;x\x07\n{e}''' == 1)"
    )

    assert 1 == main(["migrate", str(tmp_path)])

    out = capsys.readouterr().out
    assert [] == [c for c in out if c != "\n" and not c.isprintable()]
    assert "a\\x1b[31m.py:2: stamina.retry" in out


@pytest.mark.real
def test_what_the_output_cannot_hold_is_escaped(tmp_path: Path) -> None:
    """The module is read and not run, and a warning of its syntax is not told."""
    (tmp_path / "old.py").write_text(
        "import tenacity\n"
        "raise SystemExit('\\d')\n"
        "@tenacity.retry(retry=tenacity.retry_if_exception_message(message='é'))\n"
        "def f(): ...\n",
        "utf-8",
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "resilient", "migrate", "old.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONIOENCODING": "ascii",
            "PYTHONPATH": str(Path(resilient.__file__).parent.parent),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (1, "") == (ran.returncode, ran.stderr)
    assert "str(outcome.error) == '\\xe9'" in ran.stdout
