"""What the kernel says about a process: its CPU time and its memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs

_TICKS = os.sysconf("SC_CLK_TCK")
_USER_TIME = 11
"""Where utime stands in /proc/<pid>/stat, counted behind the name."""


@attrs.frozen
class Usage:
    """What a process and this one had used at a moment."""

    at: float
    generator_cpu: float
    server_cpu: float | None
    """Seconds; None where the server is on another machine."""
    server_kb: int | None


def usage(pid: int | None) -> Usage:
    """Return what has been used up to now."""
    own = os.times()
    if pid is None:
        return Usage(time.monotonic(), own.user + own.system, None, None)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[_USER_TIME]) + int(fields[_USER_TIME + 1])
    status = Path(f"/proc/{pid}/status").read_text()
    # A process that has ended and was not waited for yet has none.
    memory = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), None)
    return Usage(time.monotonic(), own.user + own.system, ticks / _TICKS, memory)
