"""The table that a load prints."""

from __future__ import annotations

import pytest

from relay.bench import report as bench_report
from relay.bench.latency import Latencies
from relay.bench.result import Result as BenchResult


def test_durations_over_a_second_are_shown_without_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    result = BenchResult("fanout", {})
    result.latencies = Latencies()
    for us in (5, 70_000, 900_000, 20_000_000):
        result.latencies.add(us * 1000)
    bench_report.write(result, as_json=False)
    shown = capsys.readouterr().out
    for row in ("below 0.008 ms", "below 131 ms", "below 1,049 ms", "below 33,554 ms"):
        assert row in shown
    assert "e+" not in shown
