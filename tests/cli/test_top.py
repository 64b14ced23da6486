"""`relay top`: its figures from scrapes, hostile names, and the command against a real server, in a terminal too."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest
import trio

from relay.cli.figures import Figures, Scrape, figures
from relay.cli.top import lines
from tests.cli.test_management import local
from tests.clients import live

FIRST = """\
relay_sessions{dialect="live",transport="websocket"} 3.0
relay_publications_total{kind="trades"} 10.0
relay_publications_total{kind="market"} 5.0
relay_loop_lag_seconds_bucket{le="0.001"} 10.0
relay_loop_lag_seconds_bucket{le="0.01"} 10.0
relay_loop_lag_seconds_bucket{le="+Inf"} 10.0
relay_database_writable 1.0
"""
SECOND = """\
relay_sessions{dialect="live",transport="websocket"} 4.0
relay_sessions{dialect="socketio",transport="polling"} 1.0
relay_sessions{dialect="socketio",transport="websocket"} 2.0
relay_publications_total{kind="trades"} 30.0
relay_publications_total{kind="market"} 5.0
relay_loop_lag_seconds_bucket{le="0.001"} 60.0
relay_loop_lag_seconds_bucket{le="0.01"} 110.0
relay_loop_lag_seconds_bucket{le="+Inf"} 110.0
relay_database_writable 1.0
"""


def between(first: str, second: str, seconds: float = 2.0) -> Figures:
    """Return the figures of two scrapes."""
    return figures(Scrape(first, 100.0), Scrape(second, 100.0 + seconds), [])


def test_rates_and_bounds_are_of_the_time_between_two_scrapes() -> None:
    found = between(FIRST, SECOND)
    assert found.connections == {"live": 4, "socketio": 3}
    assert (found.publications, found.deliveries) == (10.0, 0.0)
    assert (found.loop_lag, found.commit) == (0.01, None)
    assert found.writable
    assert between(SECOND, SECOND).loop_lag is None


def test_a_restart_makes_no_rate_negative() -> None:
    found = between(SECOND, FIRST)
    assert (found.publications, found.loop_lag) == (0.0, None)
    assert between("", "").connections == {}


def test_what_is_above_the_last_bound_counts_as_that() -> None:
    slow = 'relay_commit_seconds_bucket{le="1.0"} 0.0\nrelay_commit_seconds_bucket{le="+Inf"} 5.0\n'
    assert between("", slow).commit == 1.0


@pytest.mark.parametrize("text", ["<html>", "relay_sessions{", "relay_sessions x"])
def test_an_answer_that_is_not_of_metrics(text: str) -> None:
    with pytest.raises(ValueError):
        Scrape(text, 0.0)


def test_hostile_names_are_text() -> None:
    """Escapes, line breaks and marks of rich come out as text, in one line each."""
    hostile = "trades:\x1b]0;owned\x07\x1b[2J\n\u202eevil [bold red]x[/] " + "y" * 300
    busiest = [{"name": hostile, "publications": 1.0, "subscribers": 2, "deliveries": 2.0}]
    found = figures(Scrape(FIRST, 0.0), Scrape(SECOND, 1.0), busiest)
    found.connections["\x1b[31mlive"] = 1
    shown = lines(found)
    assert all(line.isprintable() for line in shown)
    assert len(shown) == 10
    assert "\\x1b]0;owned\\x07" in shown[-1]
    assert max(map(len, shown)) < 120


@pytest.mark.slow
async def test_the_command(folder: Path) -> None:
    async with local(folder) as here, live(here.address, "ann") as ann, trio.open_nursery() as nursery:
        await ann.ask(type="subscribe", channel="trades")

        async def publish() -> None:
            while True:
                item = {"channel": "trades", "data": {"amount": 1}}
                await here.server.core.publishing.publish_many(
                    [here.server.core.publishing.draft(item, scope="test", size=1)]
                )
                await trio.sleep(0.01)

        nursery.start_soon(publish)
        found = json.loads(await here.done("top", "--once", "--json"))
        assert found["connections"]["live"] == 1
        assert found["publicationsPerSecond"] > 1
        assert found["deliveriesPerSecond"] > 1
        assert found["memoryBytes"] > 1_000_000
        assert found["loopLagSeconds"] > 0
        [busy] = found["busiest"]
        assert (busy["name"], busy["subscribers"]) == ("trades", 1)
        assert busy["publications"] == busy["deliveries"] > 1
        shown = await here.done("top", "--channels", "0")
        assert "connections  1  (" in shown
        assert "CHANNEL" not in shown
        answer = await here.failed("top", "--once", "--url", f"http://{here.address}", "--key", "rk_live_nothing")
        assert "401" in answer
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_in_a_terminal_it_goes_on_until_ctrl_c(folder: Path) -> None:
    async with local(folder):
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "relay", "top", "--interval", "1"]
        process = await trio.lowlevel.open_process(command, stdin=follower, stdout=follower, stderr=follower)
        os.close(follower)
        text = b""
        with trio.fail_after(30):
            while text.count(b"connections") < 2:
                await trio.lowlevel.wait_readable(leader)
                text += os.read(leader, 65536)
            process.send_signal(signal.SIGINT)

            async def drain() -> None:
                while True:
                    await trio.lowlevel.wait_readable(leader)
                    try:
                        if not os.read(leader, 65536):
                            return
                    except OSError:  # the other side is closed
                        return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                assert await process.wait() == 0
                nursery.cancel_scope.cancel()
        os.close(leader)
