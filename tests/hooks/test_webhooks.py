"""Webhooks of a real server and a real receiver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from relay.server.server import Server
from tests import stores
from tests.backend import Reply
from tests.clients import live
from tests.hooks.receiver import Event, Unreliable, receiver
from tests.running import config_for, running
from tests.waiting import until

pytestmark = pytest.mark.slow

GRACE = {"dialects.live.offline_grace": 0.05, "server.restart_grace": 0.05}


async def test_users_connect_and_leave(tmp_path: Path) -> None:
    """The first connection of a user and the end of the last one are told, once each, with one id for the pair."""
    async with receiver() as backend:
        config = config_for(tmp_path, {**GRACE, **backend.settings(events=["user.*", "connection.*"])})
        async with running(config) as (_, address):
            async with live(address, "alice"):
                await until(lambda: len(backend.events) >= 2)
                async with live(address, "alice"):
                    await until(lambda: len(backend.events) >= 3)
            await until(lambda: len(backend.events) >= 6)
        connected = [event.data for event in backend.events if event.type == "user.connected"]
        [left] = [event.data for event in backend.events if event.type == "user.disconnected"]
        assert [one["userId"] for one in connected] == ["alice"]
        assert (left["userId"], left["spanId"], left["reason"]) == ("alice", connected[0]["spanId"], "closed_by_client")
        assert [event.data["seq"] for event in backend.events] == [1, 2, 3, 4, 5, 6]
        opened = {e.data["connectionId"]: e.data for e in backend.events if e.type == "connection.opened"}
        closed = {e.data["connectionId"]: e.data for e in backend.events if e.type == "connection.closed"}
        assert opened.keys() == closed.keys()
        assert len(opened) == 2
        assert {one["dialect"] for one in opened.values()} == {"live"}
        assert backend.events[-1].type == "user.disconnected"


async def test_a_user_that_comes_back_never_left(tmp_path: Path) -> None:
    """Within the grace period nothing is told, and a restart gives users a longer one."""
    async with receiver() as backend:
        grace = {"dialects.live.offline_grace": 1.0, "server.restart_grace": 2.0}
        config = config_for(tmp_path, {**grace, **backend.settings(events=["user.*"])})
        async with running(config) as (server, address):
            async with live(address, "alice"), live(address, "bob"):
                await until(lambda: len(backend.events) == 2)
            async with live(address, "alice"), live(address, "bob"):
                await until(lambda: waiting(server) == 0)
        async with running(config) as (_, address), live(address, "alice"):
            await until(lambda: len(backend.events) == 3)
        assert backend.summaries[2] == ("user.disconnected", "bob")
        assert set(backend.summaries[:2]) == {("user.connected", "alice"), ("user.connected", "bob")}


def waiting(server: Server) -> int:
    """Return how many changes are not written yet."""
    return server.core.webhooks.waiting_count


async def test_channels_presence_and_publications(tmp_path: Path) -> None:
    """A channel is occupied with its first subscriber; presence is told by user; publications have their position."""
    namespaces = {
        "namespaces.orders.subscribe": "users",
        "namespaces.orders.publish": "users",
        "namespaces.orders.presence": True,
        "namespaces.other.subscribe": "users",
    }
    async with receiver() as backend:
        events = ["channel.*", "presence.*", "publication.created"]
        hook = backend.settings(events=events, channels=["orders:*"], bodies=True)
        config = config_for(tmp_path, {**GRACE, **namespaces, **hook})
        async with running(config) as (_, address):
            async with live(address, "alice") as alice:
                assert (await alice.ask(type="subscribe", channel="other:1"))["type"] == "subscribed"
                assert (await alice.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
                await alice.send(type="publish", channel="orders:1", data={"n": [1, "ü"]})
                published = (await alice.until("published"))["data"]
                await until(lambda: len(backend.events) >= 3)
                async with live(address, "bob") as bob:
                    assert (await bob.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
                    await until(lambda: len(backend.events) >= 4)
                    await bob.send(type="unsubscribe", channel="orders:1")
                    await until(lambda: len(backend.events) >= 5)
            await until(lambda: len(backend.events) >= 7)
        by_type: dict[str, list[dict[str, Any]]] = {}
        for event in backend.events:
            by_type.setdefault(event.type, []).append(event.data)
        [created] = by_type["publication.created"]
        assert (created["offset"], created["epoch"]) == (published["offset"], published["epoch"])
        assert created["data"] == {"n": [1, "ü"]}
        assert created["publisher"]["user"] == "alice"
        assert created["type"] == "orders:event"
        assert [one["userId"] for one in by_type["presence.joined"]] == ["alice", "bob"]
        reasons = {one["userId"]: one["reason"] for one in by_type["presence.left"]}
        assert reasons == {"alice": "connection_closed", "bob": "unsubscribed"}
        [occupied], [vacated] = by_type["channel.occupied"], by_type["channel.vacated"]
        assert occupied["channel"] == vacated["channel"] == "orders:1"
        assert occupied["spanId"] == vacated["spanId"]
        assert [event.data["seq"] for event in backend.events] == list(range(1, 8))


@pytest.mark.parametrize("how", ["refuses", "hangs", "redirects", "floods"])
async def test_a_bad_receiver_costs_its_own_events_alone(tmp_path: Path, how: str) -> None:
    """Whatever one receiver does, the other one gets its events, publishers are served, and every attempt ends."""
    visited: list[str] = []

    async def bad(event: Event) -> Reply | bytes | None:
        if how == "hangs":
            await trio.sleep_forever()
        if how == "redirects":
            return Reply(302, b"", {"Location": f"http://127.0.0.1:{good.backend.port}/stolen"})
        if how == "floods":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n" + bytes(8 * 1024 * 1024)
        return Reply(500)

    async with receiver() as good, receiver(bad) as other:
        hooks = good.settings(events=["user.*"])
        for name, value in other.settings(
            events=["user.*"], timeout=0.2 if how == "hangs" else 20.0, retry_interval=0.05
        ).items():
            hooks[name.replace("backend", "bad")] = value
        config = config_for(tmp_path, {**GRACE, **hooks})
        async with running(config) as (server, address):
            for number in range(5):
                async with live(address, f"user{number}"):
                    pass
            await until(lambda: len(good.events) >= 10)
            sender = server.core.webhooks.senders["bad"]
            await until(lambda: sender.attempts.total() >= 6)
            assert sender.is_failing
            words = {"refuses": "refused", "hangs": "timeout", "redirects": "redirect", "floods": "too_large"}
            assert set(sender.attempts) == {words[how]}
            await until(lambda: sender.in_flight <= 1)
        assert not visited
        assert {received.target for received in good.backend.received} == {"/hook"}


async def test_half_of_all_requests_fail(tmp_path: Path) -> None:
    """Each event arrives, in the order of its user, and a repeat has the id of the first."""
    async with receiver(Unreliable(7)) as backend:
        config = config_for(tmp_path, {**GRACE, **backend.settings(events=["user.*", "connection.*"])})
        async with running(config) as (_, address):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(_come_and_go, address, f"user{number}")
            await until(lambda: len(backend.once()) >= 8 * 4, timeout=30)
        by_user: dict[str, list[int]] = {}
        for event in backend.once():
            by_user.setdefault(event.data["userId"], []).append(event.data["seq"])
        assert by_user == {f"user{number}": list(range(1, len(by_user[f"user{number}"]) + 1)) for number in range(8)}
        assert len(backend.requests) > len(backend.once())


async def _come_and_go(address: str, user: str) -> None:
    async with live(address, user):
        await trio.sleep(0.05)


async def test_a_receiver_that_was_down_gets_everything_after_a_restart(tmp_path: Path) -> None:
    """Events wait in the store while nobody listens, and over a restart of the server."""
    async with receiver() as backend:
        port, settings = backend.backend.port, backend.settings(events=["user.*"])
    config = config_for(tmp_path, {**GRACE, **settings})
    async with running(config) as (server, address), live(address, "alice"):
        sender = server.core.webhooks.senders["backend"]
        await until(lambda: sender.attempts["connect"] >= 2)
    async with receiver(port=port) as backend, running(config):
        await until(lambda: len(backend.events) >= 2)
        assert backend.summaries == [("user.connected", "alice"), ("user.disconnected", "alice")]


async def test_gone_stops_a_webhook_until_it_is_resumed(tmp_path: Path) -> None:
    """410 says that no more is wanted. The event waits, and is sent when an operator says so."""
    answer = Reply(410)

    async def answers(_: Event) -> Reply:
        return answer

    async with receiver(answers) as backend:
        config = config_for(tmp_path, {**GRACE, **backend.settings(events=["user.*"])})
        async with running(config) as (server, address), live(address, "alice"):
            sender = server.core.webhooks.senders["backend"]
            await until(lambda: sender.is_stopped)
            requests = len(backend.requests)
            async with live(address, "bob"):
                await until(lambda: waiting(server) == 0)
            assert len(backend.requests) == requests
            answer = Reply(200)
            sender.resume()
            await until(lambda: len(backend.events) >= 2)


async def test_private_addresses_are_refused(tmp_path: Path) -> None:
    """Without allow_private a receiver on this machine is never connected to; the log and the attempts say why."""
    async with receiver() as backend:
        url = f"https://localhost:{backend.backend.port}/hook"
        config = config_for(tmp_path, backend.settings(url=url, allow_private=False))
        async with running(config) as (server, address), live(address, "alice"):
            sender = server.core.webhooks.senders["backend"]
            await until(lambda: sender.attempts["address"] >= 1)
            assert "not public" in str(sender.recent[-1].error)
        assert backend.backend.connections == 0


async def test_without_webhooks_nothing_watches(tmp_path: Path) -> None:
    """No webhook, no cost: neither connections nor the broker nor the store call anything."""
    async with running(config_for(tmp_path)) as (server, _):
        assert not server.core.webhooks.senders
        assert server.core.connections.watcher is None
        assert server.broker.watcher is None
        assert server.core.webhooks.waiting_count == 0


async def test_other_webhooks_without_a_restart(tmp_path: Path) -> None:
    """A webhook that comes is told of what is there already, one that changes goes on, and one that goes is told no more."""
    async with receiver() as first, receiver() as second:
        config = config_for(
            tmp_path, {**GRACE, "namespaces.orders.subscribe": "users", **first.settings(events=["user.*"])}
        )
        async with running(config) as (server, address), live(address, "ann") as ann:
            assert (await ann.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
            await until(lambda: len(first.events) == 1)
            hooks, [old] = server.core.webhooks, config.webhooks.values()
            other = attrs.evolve(old, url=second.backend.url(), events=("connection.*", "channel.*"))
            hooks.take_up({"backend": old, "other": other})
            await until(lambda: len(second.events) == 2)
            assert sorted(second.summaries) == [("channel.occupied", "orders:1"), ("connection.opened", "ann")]
            hooks.take_up({"backend": attrs.evolve(old, url=second.backend.url(), events=("user.*",))})
            async with live(address, "bob"):
                await until(lambda: len(second.events) == 3)
            await until(lambda: len(second.events) == 4)
            assert second.summaries[2:] == [("user.connected", "bob"), ("user.disconnected", "bob")]
            hooks.take_up({})
            assert server.core.connections.watcher is None
            assert server.broker.watcher is None
            await until(lambda: waiting(server) == 0)
        assert len(first.events) == 1
        assert stores.problems(tmp_path) == []


async def test_a_second_webhook_for_the_same_events(tmp_path: Path) -> None:
    """It is told what is open, with the ids of the first one, and then each end; other channels come with a reload."""
    async with receiver() as first, receiver() as second:
        namespaces = {"namespaces.orders.subscribe": "users", "namespaces.shop.subscribe": "users"}
        events = ["user.*", "connection.*", "channel.*"]
        config = config_for(tmp_path, {**GRACE, **namespaces, **first.settings(events=events)})
        async with running(config) as (server, address):
            hooks, [old] = server.core.webhooks, config.webhooks.values()
            ends_only = attrs.evolve(old, url=second.backend.url(), events=("user.disconnected",))
            same = attrs.evolve(old, url=second.backend.url(), channels=("orders:*",))
            async with live(address, "ann") as ann:
                for channel in ("orders:1", "shop:1"):
                    assert (await ann.ask(type="subscribe", channel=channel))["type"] == "subscribed"
                await until(lambda: len(first.events) == 4)
                hooks.take_up({"backend": old, "same": same})
                await until(lambda: len(second.events) == 3)
                hooks.take_up({"backend": old, "same": attrs.evolve(same, channels=())})
                await until(lambda: len(second.events) == 4)
                assert second.summaries[3] == ("channel.occupied", "shop:1")
                begun = {event.summary: event.data["spanId"] for event in first.events}
                assert {event.summary: event.data["spanId"] for event in second.events} == begun
                hooks.take_up({"backend": old, "same": attrs.evolve(same, channels=()), "ends": ends_only})
                await until(lambda: waiting(server) == 0)
            await until(lambda: len(second.events) >= 4 + 5 and len(first.events) >= 8, timeout=20)
        assert (len(first.events), len(second.events)) == (8, 9)
        ended = [event.summary for event in second.events[4:]]
        assert sorted(ended) == sorted(
            [*(event.summary for event in first.events[4:]), ("user.disconnected", "ann")]  # and that of `ends`
        )


async def test_too_many_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound only the newest event of a user waits, and publications are dropped; both are counted."""
    monkeypatch.setattr("relay.hooks.webhooks.COUNT_INTERVAL", 0.02)

    async def refuse(_: Event) -> Reply:
        return Reply(500)

    async with receiver(refuse) as backend:
        options = {"events": ["connection.*", "publication.created"], "max_pending": 4, "retry_interval": 60.0}
        config = config_for(tmp_path, {**GRACE, "namespaces.orders.publish": "users", **backend.settings(**options)})
        async with running(config) as (server, address), live(address, "ann") as ann:
            hooks = server.core.webhooks

            async def publish() -> bool:
                await ann.send(type="publish", channel="orders:1", data=1)
                assert (await ann.until("published"))["type"] == "published"
                return hooks.dropped["backend"] >= 3

            await until(publish)
            dropped, pending = hooks.dropped["backend"], hooks.counts["backend"].pending
            assert pending >= 8

            async def come_and_go() -> bool:
                async with live(address, "bob"):
                    await until(lambda: waiting(server) == 0)
                await until(lambda: waiting(server) == 0)
                return hooks.dropped["backend"] >= dropped + 3

            await until(come_and_go)
            assert (await hooks.count("backend")).pending <= pending + 4
