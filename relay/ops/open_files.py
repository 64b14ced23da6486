"""The limit of open files: each connection is one."""

from __future__ import annotations

import resource

RESERVED_FILES = 200
"""Open files that are not for sessions: the database, listeners, HTTP requests, and connections that are refused."""


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_sessions() -> int:
    """Return how many sessions the limit of open files has room for, at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - RESERVED_FILES, 1)
