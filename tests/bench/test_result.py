"""What a load concludes from its figures."""

from __future__ import annotations

import pytest

from relay.bench.audit import Audit
from relay.bench.process import Usage
from relay.bench.result import Result as BenchResult


@pytest.mark.parametrize("wrong", [Audit(lost=1), Audit(duplicated=1), Audit(out_of_order=1), Audit(disconnected=1)])
def test_a_failed_audit_is_a_problem(wrong: Audit) -> None:
    result = BenchResult("fanout", {})
    result.audit = wrong
    result.conclude()
    assert len(result.problems) == 1
    assert result.as_dict()["ok"] is False


def used(at: float, generator: float, server: float | None) -> Usage:
    return Usage(at, generator, server, None)


@pytest.mark.parametrize(
    ("generator", "server", "limit"), [(9.5, 5.0, True), (9.5, 9.5, False), (5.0, 5.0, False), (9.5, None, True)]
)
def test_it_says_when_the_generator_was_the_limit(generator: float, server: float | None, limit: bool) -> None:
    result = BenchResult("fanout", {})
    result.took(used(0, 0, server and 0.0), used(10, generator, server), each=("deliveries", 1000))
    result.conclude()
    assert result.generator_was_limit is limit
    assert bool(result.notes) is limit
    assert result.figures["deliveries_per_s"] == 100
    assert result.figures.get("server_cpu_us_per_delivery") == (server and server * 1000)


def test_it_says_when_the_rate_was_not_reached() -> None:
    for sent, notes in ((9.0, ["The rate was not reached: 9.0 per second instead of 10.0."]), (9.6, [])):
        result = BenchResult("fanout", {"rate": 10.0}, {"publications_per_s": sent})
        result.conclude()
        assert result.notes == notes
