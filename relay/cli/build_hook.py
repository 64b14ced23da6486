"""A hook of hatchling: a wheel and an sdist get a file with the commit that they are built from.

Only a build imports this module. The wheel does not have it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Adds relay/commit.txt."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the commit to a temporary file and include that. An sdist that is built again has the file already."""
        sys.path.insert(0, self.root)  # a build does not install Relay
        from relay.cli.commit import COMMIT_FILE, commit_of

        commit = commit_of(Path(self.root))
        if version == "editable" or commit is None:
            return
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name, COMMIT_FILE)
        file.write_text(f"{commit}\n", encoding="utf-8")
        build_data["force_include"][str(file)] = f"relay/{COMMIT_FILE}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
