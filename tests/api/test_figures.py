"""The figures of a server as a stream: one sampler, whatever the number of consoles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from relay.api import figures
from relay.ground.histogram import Histogram
from tests.api.probe import create_key
from tests.api.test_admin import Admin, Lines, administered
from tests.clients import live
from tests.running import bearer
from tests.waiting import TIMEOUT


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SAMPLE_INTERVAL", 0.05)


@asynccontextmanager
async def streamed(admin: Admin) -> AsyncIterator[Lines]:
    """Open a stream of figures; yields its lines."""
    host, _, port = admin.address.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        key = admin.http.headers["X-API-Key"]
        await stream.send_all(f"GET {figures.PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
        lines = Lines(stream)
        assert b" 200 " in await lines.head()
        yield lines


@pytest.mark.slow
async def test_figures_follow_what_happens(tmp_path: Path) -> None:
    """Connections by dialect, publications and deliveries a second, and the times of the loop and of commits."""
    async with administered(tmp_path) as admin, live(admin.address, "ann") as ann, streamed(admin) as lines:
        await ann.ask(type="subscribe", channel="community", communityId="c1")
        for _ in range(10):
            await admin.publish("community:c1", text="Hello")
        published = delivered = 0.0
        commits = list[float | None]()
        with trio.fail_after(10):
            while published == 0 or delivered == 0 or not any(commits):
                one = await lines.next()
                published += one["publications"]
                delivered += one["deliveries"]["live"]
                commits.append(one["commit"])
            while (one := await lines.next())["lag"] is None:
                pass
        assert one["connections"] == {"live": 1, "channels": 0, "feeds": 0, "socketio": 0, "sse": 0}
        assert (one["users"], one["nodes"]) == (1, len(admin.server.cluster.node.names) if admin.server.cluster else 1)
        assert one["memory"] > 10_000_000
        assert one["subscriptions"] >= 1


@pytest.mark.slow
async def test_a_console_that_opens_late_gets_what_is_kept(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        await trio.sleep(0.3)
        async with streamed(admin) as one, streamed(admin) as two:
            with trio.fail_after(TIMEOUT):
                first = [await one.next() for _ in range(4)]
                assert [await two.next() for _ in range(4)] == first, "each console gets the same lines"
        assert [entry["at"] for entry in first] == sorted({entry["at"] for entry in first})


async def test_streams_are_bounded(tmp_path: Path) -> None:
    """The next one is refused, until one ends."""
    async with administered(tmp_path) as admin:
        async with AsyncExitStack() as stack:
            for _ in range(figures.MAX_STREAMS):
                await stack.enter_async_context(streamed(admin))
            refused = await admin.http.get(figures.PATH)
            assert refused.status_code == 503
            assert "Retry-After" in refused.headers
        with trio.fail_after(TIMEOUT):
            while (await admin.http.get(f"{figures.PATH}/")).status_code != 404:
                await trio.sleep(0.01)
            async with streamed(admin) as lines:
                assert await lines.next()


@pytest.mark.slow
async def test_figures_need_a_right_and_end_with_it(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin:
        _, publisher = await create_key(tmp_path, "publish")
        for headers, status in (({"X-API-Key": "wrong"}, 401), ({"X-API-Key": publisher}, 403), (bearer("ann"), 403)):
            assert (await admin.http.get(figures.PATH, headers=headers)).status_code == status
        async with streamed(admin) as lines:
            assert await lines.next()
            [key] = [one for one in (await admin.get("/keys"))["keys"] if "admin" in one["scopes"]]
            await admin.http.delete(f"/v1/admin/keys/{key['id']}")
            with trio.fail_after(10):
                while await lines.next() is not None:
                    pass


async def test_figures_end_with_the_server(tmp_path: Path) -> None:
    async with administered(tmp_path) as admin, streamed(admin) as lines, trio.open_nursery() as nursery:
        assert await lines.next()
        nursery.start_soon(admin.server.drain)
        with trio.fail_after(10):
            while await lines.next() is not None:
                pass


def test_means_and_rates() -> None:
    """Of what is new since the last look; nothing new has no mean."""
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5)
    mean = figures.Mean(histogram)
    assert mean.take() is None
    histogram.observe(0.010)
    histogram.observe(0.030)
    assert mean.take() == 20.0
    rates = figures.Rates()
    assert rates.take({"a": 10}, 1.0) == {"a": 10.0}
    assert rates.take({"a": 30, "b": 1}, 2.0) == {"a": 10.0, "b": 0.5}
