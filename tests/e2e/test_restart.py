"""A restart under a crowd and a running load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drain import restart_under_load

pytestmark = pytest.mark.slow(3)

CONNECTIONS = 300
"""As many as a test has time for; `python -m tests.drain --connections 5000` is the same at full size."""


def test_a_restart_under_load_loses_no_connection_attempt_and_no_message(tmp_path: Path) -> None:
    """Members of rooms are told 1001 and come back at once, senders go on: all are served, nothing is lost or repeated."""
    report = restart_under_load(tmp_path, CONNECTIONS)
    assert report.told_last < 2.0
    assert report.polls_last < 2.0
    assert report.acknowledged > 20
