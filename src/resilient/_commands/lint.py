"""``resilient lint``: show a pipeline as a tree, and what defeats itself in it."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from resilient._errors.errors import ResilientWarning
from resilient._policy.order import defeats
from resilient._policy.policy import Policy, decorators_of
from resilient._values.traits import Trait


class Target(NamedTuple):
    """Something to look at.

    Attributes:
        name: What the user calls it, as in ``module:name``.
        policies: The policy; of a decorated function its decorators, outermost
            first.
    """

    name: str
    policies: Sequence[Policy[Any]]


def find(text: str) -> list[Target]:
    """Import what a target names.

    Args:
        text: ``module:name``, where the name may have dots, or ``module`` for
            every policy and decorated function at the top of the module.

    Raises:
        ValueError: There is no such module or name, or it has no policy.
    """
    path, _, name = text.partition(":")
    module = _imported(path)
    if not name:
        found = [
            Target(f"{path}:{key}", policies)
            for key, value in vars(module).items()
            if (policies := _policies_of(value))
        ]
        if not found:
            raise ValueError(f"{path} has no policy and no decorated function")
        return found
    value: object = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ValueError(f"{path} has no {name}") from None
    policies = _policies_of(value)
    if not policies:
        raise ValueError(f"{text} is no policy and no function that one decorates")
    return [Target(text, policies)]


def _imported(path: str) -> ModuleType:
    # NB: a console script does not look where its user stands.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    with warnings.catch_warnings():
        # They are told of here, with the tree.
        warnings.simplefilter("ignore", ResilientWarning)
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            # NB: not one that the module itself fails to import.
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise
            raise ValueError(f"there is no module {path}") from None


def _policies_of(value: object) -> Sequence[Policy[Any]]:
    if isinstance(value, Policy):
        return (value,)  # pyright: ignore[reportUnknownVariableType]  # of any kind
    return decorators_of(value) if callable(value) else ()


def tree(policy: Policy[Any], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a tree: what stands inside is indented."""
    indent = "  " * depth
    if Trait.COMPOSES in policy.traits:
        name = "" if policy.name is None else f" {policy.name!r}"
        meant = ", as intended" if getattr(policy, "intended", False) else ""
        yield f"{indent}{type(policy).__name__}{name}{meant}"
    else:
        yield f"{indent}{policy!r}"
    for child in policy.children():
        yield from tree(child, depth + 1)


def faults(policies: Sequence[Policy[Any]]) -> Iterator[str]:
    """Yield what defeats itself among policies and inside each of them."""
    for place, policy in enumerate(policies, start=1):
        if not getattr(policy, "intended", False):
            yield from defeats(policy, policies[place:])
            if Trait.COMPOSES in policy.traits:
                yield from faults(policy.children())


def lint(targets: Sequence[str]) -> int:
    """Print the tree of each target, and what defeats itself.

    Returns:
        The exit code: 1 if anything defeats itself, 2 if a target is none.
    """
    try:
        found = [target for text in targets for target in find(text)]
    except ValueError as error:
        sys.stderr.write(f"resilient lint: {error}\n")
        return 2
    told = 0
    for name, policies in found:
        sys.stdout.write(f"{name}\n")
        for policy in policies:
            for line in tree(policy, depth=1):
                sys.stdout.write(f"{line}\n")
        for text in faults(policies):
            told += 1
            sys.stdout.write(f"! {text}\n")
    orders = "order defeats itself" if told == 1 else "orders defeat themselves"
    sys.stdout.write(f"{told or 'no'} {orders}\n")
    return 1 if told else 0
