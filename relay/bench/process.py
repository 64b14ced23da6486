"""Reads the CPU time and the memory of a process from the kernel."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs

_TICKS = os.sysconf("SC_CLK_TCK")
_USER_TIME = 11
"""The index of utime in /proc/<pid>/stat, counted after the name."""


@attrs.frozen
class Usage:
    """The resources that the server and this process had used at one moment."""

    at: float
    generator_cpu: float
    server_cpu: float | None
    """In seconds; None if the server is on another machine."""
    server_kb: int | None


def usage(pid: int | None) -> Usage:
    """Return the usage up to now."""
    own = os.times()
    if pid is None:
        return Usage(time.monotonic(), own.user + own.system, None, None)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[_USER_TIME]) + int(fields[_USER_TIME + 1])
    status = Path(f"/proc/{pid}/status").read_text()
    # An ended process that was not waited for has none.
    memory = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), None)
    return Usage(time.monotonic(), own.user + own.system, ticks / _TICKS, memory)
