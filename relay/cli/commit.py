"""The commit that Relay was built from. A build imports this module without any dependency."""

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""The folder of the package `relay`."""
COMMIT_FILE = "commit.txt"
"""The file in the package that has the commit. A build writes it; a checkout does not have it."""
UNKNOWN = "unknown"
GIT_TIMEOUT = 5.0
"""Seconds that git may take. A cold disk needs one at most."""


def commit_of(checkout: Path) -> str | None:
    """Return the commit of a checkout, with `-dirty` behind it if a file of it was changed; None if git does not know.

    Only the checkout itself counts, not a repository around it.
    """
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def commit(package: Path = PACKAGE) -> str:
    """Return the commit of this installation, or `unknown`."""
    file = package / COMMIT_FILE
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    return commit_of(package.parent) or UNKNOWN
