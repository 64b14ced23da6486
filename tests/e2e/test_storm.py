"""Connections that are all lost at once: who comes back is served and resumes, and who stayed misses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storm import weather

pytestmark = pytest.mark.slow(7)

CONNECTIONS = 300
"""As many as a test has time for; `python -m tests.storm --connections 10000` is the same at full size."""


@pytest.mark.timed
def test_a_crowd_comes_back_beside_sessions_that_stay(tmp_path: Path) -> None:
    report = weather(tmp_path, CONNECTIONS, staying=50, quiet_seconds=1.0)
    assert report.back_last < 10.0
    for result in (report.quiet, report.storm):
        assert result["deliveries"] >= 50 * 20 * 0.9 * result["seconds"]
        assert set(result["audit"].values()) == {0}
        assert result["problems"] == []
    assert report.storm["latency_ms"]["max"] < 5000
