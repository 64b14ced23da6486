"""The dashboard for Grafana: valid JSON of its schema, and no query that would find nothing."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.docs import handbook
from tests.cli.commands import done, failed
from tests.http_client import http_client
from tests.running import config_for, running

DASHBOARD: dict[str, Any] = json.loads(handbook.dashboard())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in GRAPHS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
OF_NODES = re.compile(r"relay_(nodes|bus_\w+)")
"""Metrics that exist with PostgreSQL alone. Their page is held against a server that has them."""
OF_EVERY_SCRAPE = {"job", "instance", "le"}


def metrics_of(query: str) -> set[str]:
    """Return the names of the metrics in a query."""
    return set(re.findall(r"\b(?:relay|process|python)_\w+", query))


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(done("docs", "grafana")) == DASHBOARD
    assert "grafana" in failed("docs", "nothing", code=2)


def test_it_has_the_schema_of_a_dashboard() -> None:
    """Fields that Grafana needs to import it: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model."""
    assert (DASHBOARD["id"], DASHBOARD["title"]) == (None, "Relay")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 36
    assert {"time", "timepicker", "refresh", "tags", "annotations", "templating"} <= set(DASHBOARD)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert {panel["type"] for panel in PANELS} == {"row", "stat", "timeseries"}
    for panel in PANELS:
        assert panel["title"]
        assert set(panel["gridPos"]) == {"h", "w", "x", "y"}
    for panel in GRAPHS:
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        ids = [target["refId"] for target in panel["targets"]]
        assert ids
        assert len(set(ids)) == len(ids)
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_no_panel_lies_on_another() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    assert [(one["title"], two["title"]) for one, two in combinations(PANELS, 2) if cells(one) & cells(two)] == []


def test_every_query_is_balanced_and_names_its_variables() -> None:
    for query in QUERIES:
        for opening, closing in ("()", "{}", "[]"):
            assert query.count(opening) == query.count(closing), query
        used = set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"}
        assert used == {"job", "instance"}, query
        for counter in re.findall(r"\w+_total", query):
            assert re.search(rf"(rate|increase)\({counter}", query), query
    assert set(VARIABLES) == {"datasource", "job", "instance"}
    assert all(
        metrics_of(one["definition"]) == {"relay_connections"} for one in VARIABLES.values() if "definition" in one
    )


@pytest.mark.slow
async def test_every_metric_and_label_of_it_exists(tmp_path: Path) -> None:
    async with running(config_for(tmp_path)) as (_, address), http_client() as client:
        text = (await client.get(f"http://{address}/metrics")).text
    families = list(text_string_to_metric_families(text))
    names = {sample.name for family in families for sample in family.samples}
    # A family without a sample yet, such as that of refused handshakes, is there too.
    names |= {f"{family.name}_total" for family in families if family.type == "counter"} | {
        one.name for one in families
    }
    page = handbook.page("metrics").text
    labels = {
        name: set(re.findall(r"`(\w+)`", cell))
        for name, cell in re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)
    }
    for query in QUERIES:
        metrics = metrics_of(query)
        assert metrics, query
        for name in metrics:
            plain = name.removesuffix("_bucket")
            assert name in names or (OF_NODES.fullmatch(plain) and plain in labels), name
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
        matched = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query))
        known = OF_EVERY_SCRAPE.union(*(labels[name.removesuffix("_bucket")] for name in metrics))
        assert grouped | matched <= known, query


def test_legends_name_labels_of_their_query() -> None:
    for panel in GRAPHS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"\b{label}\b", target["expr"]), (panel["title"], label)
