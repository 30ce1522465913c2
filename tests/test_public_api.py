"""What `from resilient import …` offers, and how it introduces itself."""

from __future__ import annotations

import enum
import importlib
import inspect
import pickle
import re
import sys

import pytest

import resilient

CONTRACT = {
    "AdaptiveThrottle",
    "AdaptiveConcurrency",
    "AdmissionPolicy",
    "Bulkhead",
    "BulkheadFullError",
    "Call",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "Coalesce",
    "ConcurrencyLimitedError",
    "DeadlineExceededError",
    "Fallback",
    "Hedge",
    "Limit",
    "Outcome",
    "PerKey",
    "Pipeline",
    "Policy",
    "Priority",
    "RateLimitedError",
    "RateLimiter",
    "RejectedError",
    "ResilientError",
    "ResilientWarning",
    "Retry",
    "RetryBudget",
    "StaleCache",
    "ThrottledError",
    "Timeout",
    "TimeoutExceededError",
    "Verdict",
    "calls",
    "constant",
    "current_call",
    "current_deadline",
    "deadline_after",
    "decorrelated",
    "delays",
    "exponential",
    "linear",
    "priority",
    "remaining",
}

PUBLIC = {name: getattr(resilient, name) for name in resilient.__all__}
# NB: sorted by what it is, so that a value such as an instance is not asked
# for a docstring of its own.
DOCUMENTED = {
    name: thing
    for name, thing in PUBLIC.items()
    if inspect.isclass(thing) or inspect.isroutine(thing)
}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


def test_the_version_is_a_release() -> None:
    """The build reads it here, so that the distribution has the same."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", resilient.__version__)


def test_all_is_sorted() -> None:
    """`__all__` reads like an index."""
    assert sorted(resilient.__all__) == list(resilient.__all__)


def test_all_is_what_the_package_shows() -> None:
    """No public name is left out of `__all__`, modules apart."""
    shown = {
        name
        for name, thing in vars(resilient).items()
        if not name.startswith("_")
        and not inspect.ismodule(thing)
        and name != "annotations"
    }

    assert set() == shown - set(resilient.__all__)


def test_every_name_of_the_contract_is_exported() -> None:
    """The names that the design promises can all be imported."""
    assert set() == CONTRACT - set(resilient.__all__)


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_public_names_introduce_themselves_as_resilient(name: str) -> None:
    """A traceback says `resilient.Retry`, not the private path."""
    assert "resilient" == DOCUMENTED[name].__module__
    assert name == DOCUMENTED[name].__qualname__


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_public_names_are_documented(name: str) -> None:
    """Every public class and function says what it does for the caller."""
    assert vars(DOCUMENTED[name]).get("__doc__") or DOCUMENTED[name].__doc__


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_public_members_are_documented(name: str) -> None:
    """So does every public method and property that a class adds."""
    silent = {
        member
        for member, thing in vars(CLASSES[name]).items()
        if not member.startswith("_")
        and (inspect.isroutine(thing) or isinstance(thing, property))
        and not inspect.getdoc(getattr(CLASSES[name], member))
    }

    assert set() == silent


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_public_classes_pickle_by_their_public_name(name: str) -> None:
    """A class found under its public name is the class that was meant."""
    assert CLASSES[name] is pickle.loads(pickle.dumps(CLASSES[name]))


@pytest.mark.parametrize(
    "name", sorted(name for name in CLASSES if name.endswith(("Error", "Warning")))
)
def test_errors_form_one_tree(name: str) -> None:
    """`except ResilientError` catches every error of ours."""
    root = resilient.ResilientError if name.endswith("Error") else UserWarning

    assert issubclass(CLASSES[name], root)


@pytest.mark.parametrize("name", ["CircuitState", "Verdict"])
def test_states_are_enums(name: str) -> None:
    """States are enums, never strings or booleans."""
    assert issubclass(CLASSES[name], enum.Enum)


@pytest.mark.parametrize(
    "extra", ["aiohttp", "grpc", "httpx", "httpx2", "redis", "requests"]
)
def test_a_module_whose_extra_is_missing_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """Beside the name of what was not found."""
    name = f"resilient.{extra}"
    for loaded in [*sys.modules]:
        if loaded == name or loaded.startswith(f"{name}."):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ModuleNotFoundError, match=extra) as caught:
        importlib.import_module(name)
    [note] = caught.value.__notes__
    assert note.startswith(f"{name} needs ")
    assert note.endswith(f": install resilient-pipeline[{extra}]")
