"""What `nox -s mutation` does to the library, and what it may leave alive."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.mutants import codes, mutants
from tests.mutation import HERE, NEAR, library

import resilient

SOURCE = '''
def most(items, least=0):
    """Text."""
    if not least or len(items) > 1:
        items.sort()
        return items[-1] + 2
    raise ValueError(f"{len(items) + 1}")

class Kept:
    limit = 3

    @property
    def spent(self):
        self.asked = True
        return max(self.limit, 0.5)
'''
MUTANTS = [
    "4 most: `if not least or len(items) > 1`"
    " -> `if not (not least or len(items) > 1)`",
    "4 most: `not least or len(items) > 1` -> `not least and len(items) > 1`",
    "4 most: `not least` -> `least`",
    "4 most: `len(items) > 1` -> `len(items) >= 1`",
    "4 most: `len(items) > 1` -> `len(items) <= 1`",
    "4 most: `1` -> `2`",
    "5 most: `items.sort()` -> `pass`",
    "6 most: `return items[-1] + 2` -> `return None`",
    "6 most: `items[-1] + 2` -> `items[-1] - 2`",
    "6 most: `2` -> `3`",
    "6 most: `-1` -> `1`",
    "6 most: `1` -> `2`",
    "7 most: `raise ValueError(f'{len(items) + 1}')` -> `pass`",
    "14 Kept.spent: `self.asked = True` -> `pass`",
    "14 Kept.spent: `True` -> `False`",
    "15 Kept.spent: `return max(self.limit, 0.5)` -> `return None`",
    "15 Kept.spent: `max(self.limit, 0.5)` -> `min(self.limit, 0.5)`",
    "15 Kept.spent: `max(self.limit, 0.5)` -> `0.5`",
    "15 Kept.spent: `max(self.limit, 0.5)` -> `self.limit`",
    "15 Kept.spent: `0.5` -> `1.5`",
]
ACCEPTED = tomllib.loads((Path(__file__).parent / "survivors.toml").read_text("utf-8"))


def test_what_functions_do_is_mutated() -> None:
    """Neither defaults, class attributes and texts, nor what is no function."""
    assert MUTANTS == [str(mutant) for mutant in mutants(SOURCE)]


def test_a_mutant_differs_in_one_function() -> None:
    """And in what that is within; each is found by its name and line."""
    originals = codes(SOURCE, "kept.py", None)
    assert {"most:2", "Kept:9", "Kept.spent:12"} == set(originals)
    for mutant in mutants(SOURCE):
        mutated = codes(SOURCE, "kept.py", mutant)
        changed = [name for name in originals if mutated[name] != originals[name]]
        around = {"most": ["most:2"], "Kept.spent": ["Kept:9", "Kept.spent:12"]}
        assert around[mutant.function] == changed


def test_few_survivors_are_accepted_and_none_in_machines() -> None:
    """A machine is pure: each of its lines can be tested."""
    listed = ACCEPTED.get("survivor", [])
    assert len(listed) <= 20
    assert not [one for one in listed if one["file"].startswith("_machines/")]
    assert all(one["reason"] for one in listed)


def test_each_accepted_survivor_still_exists() -> None:
    """Else its entry in the list has to go."""
    for listed in ACCEPTED.get("survivor", []):
        source = (Path(resilient.__file__).parent / listed["file"]).read_text("utf-8")
        asked = (listed["function"], listed["before"], listed["after"])
        found = [(one.function, one.before, one.after) for one in mutants(source)]
        assert asked in found, listed["file"]


def test_each_machine_has_tests_of_its_own() -> None:
    """Else all of its mutants would count as survivors."""
    general = set(NEAR["_machines/"])
    for path in sorted((Path(resilient.__file__).parent / "_machines").glob("*.py")):
        if found := library([f"_machines/{path.name}"]):
            assert {str(test.relative_to(HERE)) for test in found[0].tests} - general
