"""`relay bench` against a server whose answers are spoiled on their way: what is wrong is said, and what was not seen is not praised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bench.commands import bench
from tests.running import RelayProcess, token

pytestmark = pytest.mark.slow

PROXY = Path(__file__).with_name("tampering.py")
PRAISE = "no publication was lost"


@pytest.fixture(autouse=True)
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost never comes: there is no need to wait long for it."""
    monkeypatch.setattr("relay.bench.load.DRAIN_TIMEOUT", 1.0)


@contextmanager
def tampered(server: RelayProcess, *modes: str) -> Iterator[str]:
    """Yield the URL of a proxy before the server."""
    command = [sys.executable, str(PROXY), str(server.port), *modes]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def spoiled(server: RelayProcess, key: str, modes: list[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the report of a load through a proxy."""
    with tampered(server, *modes) as url:
        done = bench(*arguments, "--url", url, "--token", token("bench"), "--key", key, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is (done.exit_code == 0)
    return done.exit_code, report


FANOUT = ["fanout", "--connections", "6", "--rate", "40", "--seconds", "1"]
CHAT = ["chat", "--connections", "6", "--senders", "4", "--rate", "40", "--seconds", "1"]
MARKET = ["market", "--symbols", "3", "--connections", "5", "--rate", "60", "--seconds", "1"]


@pytest.mark.parametrize("load", [FANOUT, CHAT, [*FANOUT, "--dialect", "channels"]])
def test_what_is_passed_on_unchanged_is_right(server: RelayProcess, key: str, load: list[str]) -> None:
    code, report = spoiled(server, key, [], *load, "--flaky", "0.4")
    assert code == 0, report
    assert report["audit"]["reconnected"] > 0


@pytest.mark.parametrize("load", [FANOUT, CHAT])
def test_clients_that_cannot_come_back_fail_the_run(server: RelayProcess, key: str, load: list[str]) -> None:
    code, report = spoiled(server, key, ["refuse-after:6"], *load, "--flaky", "0.1")
    assert code == 1
    assert report["problems"][0] == "6 dropped clients could not come back"
    sent = report["publications" if load is FANOUT else "messages"]
    assert report["audit"]["lost"] == 6 * sent - report["deliveries"] > 0
    assert "the upgrade was refused: HTTP/1.1 503 Service Unavailable" in report["problems"]


@pytest.mark.parametrize("flaky", [[], ["--flaky", "0.5"]])
def test_a_message_that_is_published_twice_is_seen(server: RelayProcess, key: str, flaky: list[str]) -> None:
    code, report = spoiled(server, key, ["repeat:3"], *CHAT, *flaky)
    assert code == 1
    assert report["audit"]["duplicated"] > 0
    assert report["audit"]["lost"] == 0
    assert report["deliveries"] == 6 * report["messages"]


@pytest.mark.parametrize("load", [FANOUT, [*FANOUT, "--dialect", "feeds"], [*FANOUT, "--durable"], CHAT])
def test_a_message_with_the_content_of_another_is_seen(server: RelayProcess, key: str, load: list[str]) -> None:
    code, report = spoiled(server, key, ["content:7"], *load)
    assert code == 1
    assert report["audit"]["duplicated"] == report["audit"]["lost"] > 0
    sent = report["publications" if load is not CHAT else "messages"]
    assert report["deliveries"] + report["audit"]["lost"] == 6 * sent


def test_the_rate_is_that_of_the_time_in_which_was_published(server: RelayProcess, key: str) -> None:
    """Not of the wait for what was lost behind it; and that of the deliveries ends with the last."""
    code, report = spoiled(server, key, ["keep:20"], *FANOUT)
    assert code == 1
    assert report["audit"]["lost"] == 6 * (report["publications"] - 20)
    assert report["seconds"] < 1.5, "the wait lasts one second more"
    assert 30 < report["publications_per_s"] < 50
    assert report["deliveries_per_s"] > 6 * 30


def test_a_price_that_was_lost_was_not_replaced(server: RelayProcess, key: str) -> None:
    code, report = spoiled(server, key, ["drop:7"], *MARKET)
    assert code == 1
    assert report["audit"]["replaced"] == 0
    assert report["audit"]["lost"] == 5 * report["publications"] - report["deliveries"] > 0


def test_prices_that_were_lost_or_replaced_are_named_where_it_cannot_be_told(server: RelayProcess, key: str) -> None:
    with tampered(server, "drop:7", "no-metrics") as url:
        done = bench(*MARKET, "--symbols", "1", "--url", url, "--token", token("bench"), "--key", key)
    assert "prices were replaced by newer ones or lost" in done.stdout.replace("\n", " ")
    assert PRAISE not in done.stdout


def test_nothing_is_praised_that_did_not_come(server: RelayProcess, key: str) -> None:
    url = ["--url", f"http://{server.address}", "--token", token("bench"), "--key", key]
    assert PRAISE in bench(*FANOUT, *url).stdout
    assert PRAISE not in bench("connect", "--connections", "2", *url).stdout
