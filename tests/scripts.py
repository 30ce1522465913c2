"""Scripts of the repository that are in no package, as modules."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def load(path: str) -> Any:
    """Run a script, and return the module that it is."""
    # NB: named, for a script may have no suffix that tells what it is.
    loader = SourceFileLoader(Path(path).stem, str(ROOT / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
