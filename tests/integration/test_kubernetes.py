"""The manifest in the documentation is one that Kubernetes takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

PAGE = Path(__file__).parents[2] / "docs/how-to/deploy-without-losing-requests.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.S | re.M)


def test_the_manifest_meets_the_schema() -> None:
    """Strictly: no field is unknown. So does the hook for other servers."""
    deployment, hook = map(yaml.safe_load, BLOCKS)
    pod: Any = deployment["spec"]["template"]["spec"]

    kubernetes_validate.validate(deployment, "1.30", strict=True)
    pod["containers"][0] |= hook
    kubernetes_validate.validate(deployment, "1.30", strict=True)


def test_the_process_is_granted_the_time_of_its_lifecycle() -> None:
    """Five seconds of delay and twenty-five to end."""
    deployment: Any = yaml.safe_load(BLOCKS[0])

    granted = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert granted >= 30
