"""SQLite's errors in general words, which any reader may see: its own may name tables and files. And what to do about some."""

from __future__ import annotations

import errno
import os
from pathlib import Path

SMALL_BYTES = 8 * 1024 * 1024
"""Free bytes below which a full disk is the likely cause of an error. A start needs some hundred KiB."""

_FULL = ("disk is full", os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))

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


def cure(error: str, folder: Path) -> str:
    """Return what to do about an error of the disk of `folder`, as a sentence after a space; empty for any other error.

    SQLite names a full disk only if it cannot write the file or its log. If it cannot extend the log's index, it says
    "disk I/O error".
    """
    if any(part in error for part in _FULL):
        return " Free space on its disk."
    if "disk I/O error" not in error:
        return ""
    free = _free_bytes(folder)
    if free is not None and free < SMALL_BYTES:
        return f" Its disk has only {free // 1024} KiB free, which is the likely cause. Free space on it."
    return " The disk may be full or failing: free space on it (df), and look at the kernel's log (dmesg)."


def _free_bytes(folder: Path) -> int | None:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize
