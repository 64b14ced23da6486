"""The limit of open files, in a process of its own: a process cannot raise its hard limit again."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from relay.ops.open_files import max_sessions, raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), max_sessions())
"""


@pytest.mark.parametrize(("soft", "hard", "sessions"), [(100, 500, 300), (300, 300, 100), (64, 64, 1)])
def test_the_soft_limit_becomes_the_hard_one_less_what_is_reserved(soft: int, hard: int, sessions: int) -> None:
    script = SCRIPT.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.split() == [str(hard), str(hard), str(sessions)]
