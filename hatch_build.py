"""The package's page is the README, with links that lead somewhere from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def linked(text: str, urls: dict[str, str]) -> str:
    """Make the relative links of the README absolute.

    Args:
        text: The README.
        urls: `[project.urls]` of pyproject.toml.
    """
    # The documentation is on its site, all else in the repository.
    text = re.sub(
        r"\]\(docs/(_static/[^)]+)\)", rf"]({urls['Documentation']}/\1)", text
    )
    text = re.sub(
        r"\]\(docs/([\w/-]+)\.md(#[\w-]+)?\)",
        lambda m: f"]({urls['Documentation']}/{m[1]}.html{m[2] or ''})",
        text,
    )
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({urls['Source']}/\1)", text)


class CustomMetadataHook(MetadataHookInterface):
    """What hatchling asks for the metadata that pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the README in."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": linked(text, metadata["urls"]),
        }
