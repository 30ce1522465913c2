"""Copies of errors, for several callers who get the same one."""

from __future__ import annotations

from typing import Any

import attrs
import httpx
import pytest
from tests.errors import FrozenError, SingleError

from resilient import CircuitOpenError, DeadlineExceededError, TimeoutExceededError
from resilient._errors.copies import copy_error, forget_origin


class PeculiarError(Exception):
    """Its constructor takes something else than its arguments."""

    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")
        self.code = code


class SlottedError(Exception):
    """It has slots, one of them empty, one of them None."""

    __slots__ = ("code", "empty", "nothing")

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.nothing = None


@attrs.frozen
class FrozenTooError(Exception):
    """It refuses attributes too, and has slots."""

    code: int


class KeywordedError(Exception):
    """Its constructor has to be called by keyword."""

    def __init__(self, *, code: int) -> None:
        self.code = code


class ParticularError(Exception):
    """It cannot be made without being told more than it remembers."""

    def __new__(cls, code: int) -> ParticularError:
        return super().__new__(cls)

    def __init__(self, code: int) -> None:
        super().__init__()


class ChangelingError(Exception):
    """It makes something else of itself."""

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls, *args) if args == (1,) else OSError()


def raised(error: BaseException) -> BaseException:
    """Raise an error, with a cause and a note, and catch it."""
    try:
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise error from cause
    except BaseException as caught:
        BaseException.add_note(caught, "a note") if not isinstance(
            caught, (FrozenError, FrozenTooError)
        ) else None
        return caught


REQUEST = httpx.Request("GET", "http://localhost")
ERRORS = [
    ValueError("text", 1),
    PeculiarError(5),
    SlottedError(5),
    FrozenError(5),
    FrozenTooError(5),
    KeywordedError(code=5),
    BlockingIOError(11, "Try again", "name"),
    OSError("text"),
    FileNotFoundError(2, "No such file"),
    UnicodeDecodeError("utf-8", b"abc", 1, 2, "because"),
    ImportError("text", name="module", path="path"),
    AttributeError("text", name="name", obj=3),
    StopIteration(3),
    SystemExit(3),
    KeyboardInterrupt(),
    ExceptionGroup("text", [ValueError(1), PeculiarError(2)]),
    BaseExceptionGroup("text", [KeyboardInterrupt()]),
    CircuitOpenError("circuit", 1.0, "open", 5, 10, "10 s"),
    DeadlineExceededError("policy", None, 1.0),
    TimeoutExceededError("policy", 1.0, 2.0),
    httpx.ConnectError("text", request=REQUEST),
    httpx.HTTPStatusError("text", request=REQUEST, response=httpx.Response(500)),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_is_all_that_the_error_is(error: BaseException) -> None:
    """But for what it is: no constructor is called for it."""
    error = raised(error)
    twin = copy_error(error)
    assert twin is not None
    assert twin is not error
    assert type(error) is type(twin)
    assert (str(error), repr(error)) == (str(twin), repr(twin))
    assert error.args == twin.args
    assert error.__dict__ == twin.__dict__
    assert error.__cause__ is twin.__cause__
    assert error.__context__ is twin.__context__
    assert error.__suppress_context__ == twin.__suppress_context__
    assert error.__traceback__ is twin.__traceback__
    for name in ("code", "nothing", "errno", "filename", "start", "name", "value"):
        assert getattr(error, name, "none") == getattr(twin, name, "none")
    assert not hasattr(twin, "empty")


def test_notes_are_each_ones_own() -> None:
    """What is added to one is not said of the other."""
    error = raised(ValueError())
    twin = copy_error(error)
    assert twin is not None
    twin.add_note("another")
    assert ["a note"] == error.__notes__
    assert ["a note", "another"] == twin.__notes__


def test_tracebacks_grow_apart() -> None:
    """They share what was there, and nothing that comes."""
    error = raised(ValueError())
    trace = error.__traceback__
    twin = copy_error(error)
    assert twin is not None
    with pytest.raises(ValueError):
        raise twin
    assert trace is error.__traceback__
    assert twin.__traceback__ is not trace


@pytest.mark.parametrize(
    "error",
    [ParticularError(1), ChangelingError(1), SingleError(1)],
    ids=lambda e: type(e).__name__,
)
def test_some_errors_cannot_be_copied(error: Exception) -> None:
    """None says so, and the error is as it was."""
    if isinstance(error, ChangelingError):
        error.args = (2,)
    if isinstance(error, SingleError):
        # Other tests make it anew.
        SingleError.one = error
    assert None is copy_error(error)


def test_an_origin_can_be_forgotten() -> None:
    """With all frames it went through."""
    error = raised(ValueError())
    forget_origin(error)
    assert None is error.__cause__ is error.__context__ is error.__traceback__
