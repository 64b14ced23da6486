"""SQLite's errors in general words, which any reader may see: its own may name tables and files."""

from __future__ import annotations

_MEANINGS = {
    "disk is full": "the disk is full",
    "readonly": "it is read-only",
    "disk I/O error": "the disk reports errors",
    "locked": "another process keeps it locked",
    "malformed": "its file is damaged",
    "not a database": "its file is damaged",
    "unable to open": "its file cannot be opened",
    "no such table": "another program changed its file",
}
"""A part of an error's text, and its meaning."""


def meaning(error: str) -> str:
    """Return what an error of SQLite means."""
    return next((words for part, words in _MEANINGS.items() if part in error), "see the log")
