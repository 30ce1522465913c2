"""Scripts of the repository: as modules, and in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
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


def printed(module: str, *arguments: str) -> Any:
    """Run a module of the tests in a process; return the JSON that it prints."""
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == ran.returncode, ran.stderr
    return json.loads(ran.stdout)
