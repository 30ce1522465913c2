"""Fixtures of the tests of the transports."""

from __future__ import annotations

import os

import pytest
from tests.http.families import FAMILIES, Http


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(params=FAMILIES)
def h(request: pytest.FixtureRequest) -> Http:
    """A family in the sync colour, for tests that send nothing."""
    return Http(request.param, "sync")
