"""A subscription: each publication once and in order, over lost connections, slow readers and killed servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from relay.broker.channel import Channel
from relay.broker.registry import ChannelRegistry
from relay.broker.store_follower import StoreFollower
from relay.client.python import Backend, Client, Draft, Gap, Position, RelayError, Signal, Subscription, Unauthorized
from tests.client.loops import backend, client, cutter, on_both, restart, run, until
from tests.running import RelayProcess, config_for, running, token


async def data_of(subscription: Subscription, count: int) -> list[object]:
    """Return the data of the next publications."""
    return [(await anext(subscription)).data for _ in range(count)]


@on_both
def test_a_channel_is_left_and_entered_while_much_is_queued(server: RelayProcess, loop: str) -> None:
    """Without room for the unsubscribe, it does not overtake the next subscribe."""

    async def test() -> None:
        channel = f"orders:left-{loop}"
        async with client(server, "ada") as ada, backend(server) as publisher:
            await ada.ready()
            connection = ada._link.open_connection
            assert connection is not None
            subscription = await ada.subscribe(channel).__aenter__()
            for number in range(10):
                while connection.socket.send_nowait('{"type":"ping"}'):
                    pass
                await subscription.__aexit__(None, None, None)
                subscription = await ada.subscribe(channel).__aenter__()
                await publisher.publish(channel, number)
                assert await data_of(subscription, 1) == [number]

    run(loop, test)


@on_both
def test_types_like_those_of_the_server(server: RelayProcess, loop: str) -> None:
    """A publication may have the type of a frame of the server, and stays a publication."""

    async def test() -> None:
        signals: list[Signal] = []
        async with client(server, f"ada-{loop}", on_signal=signals.append) as ada, client(server, "bob") as bob:
            for channel in (f"orders:types-{loop}", f"cursors:types-{loop}"):
                async with ada.subscribe(channel) as subscription:
                    types = ["skipped", "presence:join", "chat:typing", "error"]
                    for type_ in types:
                        await bob.publish(channel, {"userId": "eve"}, type=type_)
                    assert [(await anext(subscription)).type for _ in types] == types
        assert signals == []

    run(loop, test)


@on_both
def test_every_kind_of_channel(server: RelayProcess, loop: str) -> None:
    """Full names, in any case for the market; the last publications first, if they are asked for."""

    async def test() -> None:
        async with client(server, f"ada-{loop}") as ada, backend(server) as publisher:
            await publisher.publish(f"market:coin-{loop}", {"price": 1})
            await publisher.publish_many(Draft(f"orders:kinds-{loop}", number) for number in range(5))
            async with (
                ada.subscribe(f"market:coin-{loop}") as market,
                ada.subscribe("trades") as trades,
                ada.subscribe("broadcast") as broadcast,
                ada.subscribe(f"community:{loop}") as community,
                ada.subscribe("notifications") as notifications,
                ada.subscribe(f"orders:kinds-{loop}", last=2) as orders,
                ada.subscribe(f"cursors:{loop}") as cursors,
            ):
                drafts = [
                    Draft(f"market:coin-{loop}", {"price": 2}),
                    Draft("trades", {"amount": 3}),
                    Draft("broadcast", {"n": 4}, type="news"),
                    Draft(f"community:{loop}", {"n": 5}),
                    Draft(f"user:ada-{loop}", {"message": "6"}),
                    Draft(f"cursors:{loop}", 7),
                ]
                await publisher.publish_many(drafts)
                assert [one["price"] for one in await data_of(market, 2)] == [1, 2]  # type: ignore[index]
                assert market.channel == f"market:COIN-{loop}".upper().replace("MARKET", "market")
                assert await data_of(trades, 1) == [{"amount": 3}]
                assert await data_of(broadcast, 1) == [{"n": 4}]
                assert (await anext(community)).data["n"] == 5
                assert (await anext(notifications)).data["message"] == "6"
                assert await data_of(orders, 2) == [3, 4]
                last = await anext(cursors)
                assert (last.data, last.position, cursors.position) == (7, None, None)
                with pytest.raises(ValueError, match="subscribed to"):
                    await ada.subscribe("trades").__aenter__()
            with pytest.raises(StopAsyncIteration):
                await anext(trades)
            async with ada.subscribe("trades") as trades:
                await publisher.publish("trades", {"amount": 8})
                assert await data_of(trades, 1) == [{"amount": 8}]

    run(loop, test)


@pytest.mark.slow
@on_both
def test_nothing_is_lost_while_connections_are_cut(server: RelayProcess, loop: str) -> None:
    """By the thousands, and with a killed server meanwhile."""
    channel, total = f"orders:cut-{loop}", 400

    async def test() -> None:
        async with (
            cutter(server.port) as proxy,
            client(proxy) as ada,
            backend(server) as publisher,
            ada.subscribe(channel) as orders,
            anyio.create_task_group() as tasks,
        ):

            async def publish() -> None:
                for number in range(total):
                    await publisher.publish(channel, number)

            async def cut() -> None:
                for turn in range(8):
                    await anyio.sleep(0.1)
                    if turn == 4:
                        await restart(server)
                    proxy.cut()

            tasks.start_soon(publish)
            tasks.start_soon(cut)
            assert await data_of(orders, total) == list(range(total))
            assert orders.position is not None
            assert orders.position.offset == total

    run(loop, test)


@on_both
def test_resume_from_a_position_of_before(server: RelayProcess, loop: str) -> None:
    """A program that starts again goes on where it stopped."""
    channel = f"orders:before-{loop}"

    async def test() -> None:
        async with client(server) as ada, backend(server) as publisher:
            await publisher.publish_many(Draft(channel, number) for number in range(5))
            async with ada.subscribe(channel, last=5) as orders:
                assert await data_of(orders, 2) == [0, 1]
                position = orders.position
        async with client(server) as ada, ada.subscribe(channel, since=position) as orders:
            assert await data_of(orders, 3) == [2, 3, 4]
        async with client(server) as ada, ada.subscribe(channel, since=Position(3, "another")) as orders:
            with pytest.raises(Gap) as gap:
                await anext(orders)
            assert (gap.value.channel, gap.value.since) == (channel, Position(3, "another"))
            assert gap.value.position == orders.position
            assert orders.position is not None
            assert orders.position.offset == 5

    run(loop, test)


@on_both
def test_a_gap_is_told_at_its_place(server: RelayProcess, loop: str) -> None:
    """Publications that are not kept for long enough: before it comes what was received, behind it what follows."""
    channel = f"short:{loop}"

    async def test() -> None:
        async with (
            cutter(server.port) as proxy,
            client(proxy) as ada,
            backend(server) as publisher,
            ada.subscribe(channel) as short,
            ada.subscribe(f"cursors:gap-{loop}") as cursors,
            ada.subscribe(f"market:gap-{loop}") as market,
        ):
            await publisher.publish(channel, "before")
            await until(lambda: len(short._pending) == 1)
            proxy.is_silent = True
            await publisher.publish_many([Draft(channel, number) for number in range(9)])
            proxy.cut()
            proxy.is_silent = False
            await until(lambda: short.state == cursors.state == market.state == "subscribed" and proxy.count == 2)
            await publisher.publish(channel, "after")
            assert (await anext(short)).data == "before"
            before = short.position
            with pytest.raises(Gap) as gap:
                await anext(short)
            assert gap.value.since == before
            assert gap.value.position is not None
            assert before is not None
            assert gap.value.position.offset == before.offset + 9
            assert (await anext(short)).data == "after"
            with pytest.raises(Gap):  # it has no history, so any interruption may be one
                await anext(cursors)
            await publisher.publish(cursors.channel, 1)
            assert (await anext(cursors)).data == 1
            await publisher.publish(market.channel, {"price": 1})  # it has the last price alone
            assert (await anext(market)).data["price"] == 1

    run(loop, test)


@on_both
def test_gaps_may_be_passed_over(server: RelayProcess, loop: str) -> None:
    async def test() -> None:
        async with (
            client(server) as ada,
            backend(server) as publisher,
            ada.subscribe(f"short:over-{loop}", since=Position(1, "another"), ignore_gaps=True) as short,
        ):
            await publisher.publish(short.channel, 1)
            assert await data_of(short, 1) == [1]

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_slow_reader(server: RelayProcess, loop: str) -> None:
    """It costs bounded memory, slows no other subscription, and loses nothing that is kept."""
    channel, other = f"orders:slow-{loop}", f"orders:fast-{loop}"

    async def test() -> None:
        async with (
            client(server) as ada,
            backend(server) as publisher,
            ada.subscribe(channel, max_pending=20) as slow,
            ada.subscribe(f"short:slow-{loop}", max_pending=20) as short,
            ada.subscribe(other) as fast,
        ):
            await publisher.publish_many(
                Draft(name, number) for number in range(300) for name in (channel, short.channel, other)
            )
            assert await data_of(fast, 300) == list(range(300))
            assert len(slow._pending) == len(short._pending) == 20
            got = []
            for _ in range(300):
                got.append((await anext(slow)).data)
                assert len(slow._pending) <= 20
            assert got == list(range(300))
            await publisher.publish(channel, "live")
            assert (await anext(slow)).data == "live"
            assert await data_of(short, 20) == list(range(20))
            with pytest.raises(Gap):
                await anext(short)
            await publisher.publish(short.channel, "live")
            assert (await anext(short)).data == "live"

    run(loop, test)


@on_both
def test_a_slow_reader_over_a_lost_connection(server: RelayProcess, loop: str) -> None:
    """The reader that has to catch up resumes behind the last publication that it took."""
    channel = f"orders:slow-cut-{loop}"

    async def test() -> None:
        async with (
            cutter(server.port) as proxy,
            client(proxy) as ada,
            backend(server) as publisher,
            ada.subscribe(channel, max_pending=10) as slow,
        ):
            await publisher.publish_many(Draft(channel, number) for number in range(100))
            await until(lambda: slow.state == "subscribing")
            proxy.cut()
            await until(lambda: proxy.count == 2 and ada.state == "connected")
            assert await data_of(slow, 100) == list(range(100))

    run(loop, test)


@pytest.mark.slow
@on_both
def test_a_cancelled_reader_loses_nothing(server: RelayProcess, loop: str) -> None:
    channel = f"orders:cancelled-{loop}"

    async def test() -> None:
        async with client(server) as ada, backend(server) as publisher, ada.subscribe(channel) as orders:
            got: list[object] = []
            async with anyio.create_task_group() as tasks:

                async def publish() -> None:
                    for number in range(100):
                        await publisher.publish(channel, number)

                tasks.start_soon(publish)
                while len(got) < 100:
                    with anyio.move_on_after(0.002):
                        while True:
                            got.append((await anext(orders)).data)
            assert got == list(range(100))

    run(loop, test)


@on_both
def test_presence_signals(server: RelayProcess, loop: str) -> None:
    """A user that joins and leaves is a signal with the name of the channel."""

    async def test() -> None:
        signals: list[Signal] = []
        channel = f"orders:joined-{loop}"
        async with client(server, on_signal=signals.append) as ada, ada.subscribe(channel):
            async with client(server, "bob") as bob, bob.subscribe(channel):
                await until(lambda: signals)
                assert (await ada.presence(channel)).count == 2
            await until(lambda: len(signals) == 2)
        assert [one.type for one in signals] == ["presence:join", "presence:leave"]
        assert {one.channel for one in signals} == {channel}
        assert signals[0].data["userId"] == "bob"

    run(loop, test)


@pytest.mark.slow
@on_both
def test_subscription_tokens(server: RelayProcess, loop: str) -> None:
    """A refusal has its reason, a function that fails is asked again, and an expired token is replaced."""
    channel = f"private:{loop}"

    async def test() -> None:
        errors: list[Exception] = []
        calls = 0

        async def get_token(name: str) -> str:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("away")
            return token("ada", more={"channel": name}, expires_in=2.0)

        async def wrong(name: str) -> str:
            return token("bob", more={"channel": name})

        async def unauthorized(name: str) -> str:
            raise Unauthorized("not any more")

        async with client(server, on_error=errors.append) as ada, backend(server) as publisher:
            for function, reason in ((None, "no_grant"), (wrong, "token_other_user")):
                with pytest.raises(RelayError) as refusal:
                    await ada.subscribe(channel, token=function).__aenter__()
                assert (refusal.value.code, refusal.value.reason) == ("forbidden", reason)
            with pytest.raises(RelayError, match="not any more"):
                await ada.subscribe(channel, token=unauthorized).__aenter__()
            async with ada.subscribe(channel, token=get_token) as private:
                assert [str(one) for one in errors] == ["away"]
                await until(lambda: calls >= 3)
                await publisher.publish(channel, 1)
                assert await data_of(private, 1) == [1]

    run(loop, test)


async def test_publications_that_the_server_lost(tmp_path: Path) -> None:
    """The server ends the subscription. The client has it again at once, and is told of a gap."""
    async with running(config_for(tmp_path)) as (world, address):
        url = f"http://{address}"
        async with (
            Client(url, token=token("ada")) as ada,
            Backend(url, token=token("root", admin=True)) as publisher,
            ada.subscribe("trades") as trades,
        ):
            await publisher.publish("trades", {"amount": 1})
            assert await data_of(trades, 1) == [{"amount": 1}]
            old = trades.position
            StoreFollower(world.broker).restart("trades", Position(7, "another"))  # type: ignore[arg-type]
            with pytest.raises(Gap) as gap:
                await anext(trades)
            assert (gap.value.since, gap.value.position) == (old, Position(7, "another"))
            await publisher.publish("trades", {"amount": 2})
            assert await data_of(trades, 1) == [{"amount": 2}]


async def test_publications_that_the_server_lost_while_a_subscription_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses it as revoked. The client asks again."""
    load_missed = ChannelRegistry.load_missed

    async def lose(channels: ChannelRegistry, channel: Channel, *arguments: Any) -> None:
        monkeypatch.undo()
        StoreFollower(world.broker).restart("trades", Position(7, "another"))  # type: ignore[arg-type]
        await load_missed(channels, channel, *arguments)

    async with (
        running(config_for(tmp_path)) as (world, address),
        Client(f"http://{address}", token=token("ada")) as ada,
        Client(f"http://{address}", token=token("bob")) as bob,
        ada.subscribe("trades"),
    ):
        await bob.ready()
        monkeypatch.setattr(ChannelRegistry, "load_missed", lose)
        async with bob.subscribe("trades") as trades:
            assert trades.position is not None
            assert trades.position.offset == 7
