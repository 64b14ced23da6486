"""Publishing over HTTP: one, many, or a stream of lines that are published while it lasts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from relay.access.publishing import MAX_ITEM_BYTES, Publishing, too_large
from relay.api.publish import ITEMS_PER_TURN, MAX_ERRORS, Lines
from relay.auth import api_keys as keys
from relay.dialects.live.dialect import open_live
from relay.ground.errors import Code, RequestError
from relay.model.publication import Draft, Outcome, Position, Published
from relay.server.server import Server
from tests.api.probe import create_key, revoke_key
from tests.api.raw import Answer, RawConnection, raw_connection
from tests.clients import live
from tests.http_client import HttpConnection, http_connection
from tests.kept import recent
from tests.running import bearer, config_for, running
from tests.waiting import until

PUBLISH = "/v1/publish"


@attrs.frozen
class Publisher:
    """A server, and a key that may publish to it."""

    server: Server
    address: str
    secret: str
    folder: Path

    @property
    def headers(self) -> dict[str, str]:
        """What says who publishes."""
        return {"X-API-Key": self.secret}


@asynccontextmanager
async def publisher(folder: Path, **overrides: Any) -> AsyncIterator[Publisher]:
    """Run a server, and make a key."""
    with trio.fail_after(30):
        async with running(config_for(folder, overrides), dialects=[open_live]) as (server, address):
            _, secret = await create_key(folder, "publish")
            yield Publisher(server, address, secret, folder)


@asynccontextmanager
async def client(folder: Path, **overrides: Any) -> AsyncIterator[HttpConnection]:
    """Run a server; yields a connection that may publish to it."""
    async with publisher(folder, **overrides) as to, http_connection(to.address, to.headers) as connection:
        yield connection


@asynccontextmanager
async def stream(to: Publisher, *headers: str) -> AsyncIterator[RawConnection]:
    """Begin a stream of lines, in chunks."""
    async with raw_connection(to.address) as connection:
        key = f"X-API-Key: {to.secret}"
        content_type = "Content-Type: application/x-ndjson; charset=utf-8"
        await connection.head("POST", PUBLISH, key, content_type, "Transfer-Encoding: chunked", *headers)
        yield connection


async def end(connection: RawConnection) -> Answer:
    """End a stream, and return what is answered."""
    await connection.chunk(b"")
    return await connection.answer()


def line(channel: str = "trades", **data: Any) -> bytes:
    """Return a line."""
    return json.dumps({"channel": channel, "data": data}).encode() + b"\n"


async def head_of(to: Publisher, channel: str = "trades") -> int:
    """Return the offset of what was published to a channel last."""
    position, _ = await recent(to.server.broker, to.server.core.namespaces.parse(channel))
    return position.offset


async def until_head(to: Publisher, offset: int, channel: str = "trades") -> None:
    """Wait until that much was published to a channel."""

    async def reached() -> bool:
        return await head_of(to, channel) >= offset

    await until(reached)


# -- one ---------------------------------------------------------------------------------------------------------------


async def test_one_publication_is_answered_with_its_position(tmp_path: Path) -> None:
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, {"channel": "market:eur/usd", "data": {"price": 1.5}})
        _, again = await connection.request("POST", PUBLISH, {"channel": "market:EUR/USD", "data": {"price": 1.6}})
    [position] = body.pop("data")
    assert (status, body) == (200, {"success": True, "status": 200})
    assert position == {"channel": "market:EUR/USD", "offset": 1, "epoch": position["epoch"]}
    assert again["data"] == [{**position, "offset": 2}]


async def test_who_subscribes_gets_it(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, live(to.address, "alice") as alice:
        await alice.ask(type="subscribe", channel="trades")
        async with http_connection(to.address, to.headers) as connection:
            await connection.request("POST", PUBLISH, {"channel": "trades", "data": {"amount": 5}})
        heard = await alice.receive()
    assert (heard["type"], heard["offset"], heard["data"]) == ("trade:created", 1, {"amount": 5})


async def test_a_bad_publication_is_refused_by_field(tmp_path: Path) -> None:
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, {"channel": "market:BTC", "data": {}, "x": 1})
        assert (status, [error["field"] for error in body["errors"]]) == (400, ["x"])
        status, body = await connection.request("POST", PUBLISH, {"channel": "market:BTC", "data": {}})
        assert (status, [error["field"] for error in body["errors"]]) == (400, ["price"])
        status, _ = await connection.request("POST", PUBLISH, {"channel": "nothing:1", "data": {}})
        assert status == 400
        status, _ = await connection.request("POST", PUBLISH, "trades")
        assert status == 400


async def test_a_refusal_by_the_store_is_that_of_the_request(tmp_path: Path) -> None:
    lost = {"channel": "chatroom:none", "data": {"userId": "bot", "message": "Hello"}}
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, lost)
    assert (status, body["status"]) == (404, 404)


async def test_a_publication_has_at_most_its_bytes(tmp_path: Path) -> None:
    item = {"channel": "trades", "data": {"x": ""}}
    item["data"] = {"x": "x" * (MAX_ITEM_BYTES - len(json.dumps(item)))}
    async with client(tmp_path) as connection:
        status, _ = await connection.request("POST", PUBLISH, item)
        assert status == 200
        status, body = await connection.request("POST", PUBLISH, {**item, "type": None})
        assert (status, body["message"]) == (413, "A publication may have at most 65536 bytes.")


async def test_a_retry_is_answered_with_the_first_position(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to:
        for channel, data in {"trades": {}, "task:1": {"status": "x"}}.items():
            item = {"channel": channel, "data": data, "idempotencyKey": "once"}
            async with http_connection(to.address, to.headers) as connection:
                first = await connection.request("POST", PUBLISH, item)
                assert await connection.request("POST", PUBLISH, item) == first
            async with http_connection(to.address, bearer("root", admin=True)) as connection:
                _, other = await connection.request("POST", PUBLISH, item)
            assert other["data"][0]["offset"] == 2, "another sender's key is another key"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"X-API-Key": "wrong"}, 401), (bearer("alice"), 403), (bearer("root", admin=True), 200)],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
async def test_who_may_publish(tmp_path: Path, headers: dict[str, str], status: int, content_type: str) -> None:
    async with publisher(tmp_path) as to, raw_connection(to.address) as connection:
        body = line(amount=1)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        await connection.head("POST", PUBLISH, *lines, f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
        await connection.send(body)
        assert (await connection.answer()).status == status
        assert await head_of(to) == (status == 200)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
async def test_who_may_not_publish_is_told_before_the_body_comes(tmp_path: Path, content_type: str) -> None:
    async with publisher(tmp_path) as to, raw_connection(to.address) as connection:
        await connection.head("POST", PUBLISH, f"Content-Type: {content_type}", "Content-Length: 100")
        assert (await connection.answer()).status == 401


@pytest.mark.parametrize("content_type", ["text/plain", "application/ndjson", "application/octet-stream"])
async def test_another_type_of_content_is_refused(tmp_path: Path, content_type: str) -> None:
    async with publisher(tmp_path) as to, raw_connection(to.address) as connection:
        key = f"X-API-Key: {to.secret}"
        await connection.head("POST", PUBLISH, key, f"Content-Type: {content_type}", "Content-Length: 2")
        await connection.send(b"{}")
        assert (await connection.answer()).status == 415


async def test_only_post_publishes(tmp_path: Path) -> None:
    async with client(tmp_path) as connection:
        status, body = await connection.request("PUT", PUBLISH, {"channel": "trades", "data": {}})
    assert (status, body["status"]) == (405, 405)


# -- an array ----------------------------------------------------------------------------------------------------------


async def test_each_item_of_an_array_is_answered_in_its_place(tmp_path: Path) -> None:
    items = [
        {"channel": "trades", "data": {}},
        {"channel": "market:BTC", "data": {}},
        "trades",
        {"channel": "chatroom:none", "data": {"userId": "bot", "message": "Hello"}},
        {"channel": "task:1", "data": {"status": "x"}},
        {"channel": "trades", "data": {}},
    ]
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, items)
    assert status == 200
    seen = [item.get("offset") or item["error"]["code"] for item in body["data"]]
    assert seen == [1, "invalid_request", "invalid_request", "not_found", 1, 2]
    assert [item.get("channel") for item in body["data"]] == ["trades", None, None, None, "task:1", "trades"]
    assert all(item["error"].keys() - {"reason"} == {"code", "message"} for item in body["data"] if "error" in item)


async def test_an_empty_array_publishes_nothing(tmp_path: Path) -> None:
    async with client(tmp_path) as connection:
        assert await connection.request("POST", PUBLISH, []) == (200, {"success": True, "status": 200, "data": []})


async def test_an_array_may_have_a_thousand_items_and_no_more(tmp_path: Path) -> None:
    item = {"channel": "trades", "data": {"text": "x" * 1000}}
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, [item] * 1000)
        assert (status, [one["offset"] for one in body["data"]]) == (200, list(range(1, 1001)))
        status, _ = await connection.request("POST", PUBLISH, [item] * 1001)
        assert status == 413
        _, body = await connection.request("POST", PUBLISH, item)
        assert body["data"][0]["offset"] == 1001, "of an array that is refused nothing is published"


@pytest.mark.slow
async def test_an_array_may_have_eight_mebibytes_and_no_more(tmp_path: Path) -> None:
    item = {"channel": "trades", "data": {"text": "x" * 60_000}}
    async with publisher(tmp_path) as to:
        for count, status in {135: 200, 140: 413}.items():
            async with http_connection(to.address, to.headers) as connection:
                answered, _ = await connection.request("POST", PUBLISH, [item] * count)
                assert answered == status
        assert await head_of(to) == 135


async def test_an_item_that_is_too_large_is_refused_in_its_place(tmp_path: Path) -> None:
    items = [{"channel": "trades", "data": {"text": "x" * size}} for size in (10, MAX_ITEM_BYTES, 60_000)]
    async with client(tmp_path) as connection:
        status, body = await connection.request("POST", PUBLISH, items)
    assert status == 200
    assert body["data"][1]["error"]["code"] == "too_large"
    assert [one.get("offset") for one in body["data"]] == [1, None, 2]


async def test_the_refusal_of_missing_data_says_what_data_the_channel_takes(tmp_path: Path) -> None:
    async with client(tmp_path, **{"namespaces.orders.history_size": 10}) as connection:
        for channel, message in (("orders:1", "is required"), ("trades", "is required and must be an object")):
            status, answer = await connection.request("POST", PUBLISH, {"channel": channel})
            assert (status, answer["errors"]) == (400, [{"field": "data", "message": message}])
        status, answer = await connection.request("POST", PUBLISH, {"channel": "nowhere:1", "data": 5})
        assert (status, answer["reason"]) == (400, "unknown_namespace")


async def test_a_key_publishes_to_a_channel_by_either_header(tmp_path: Path) -> None:
    async with publisher(tmp_path, **{"namespaces.orders.history_size": 10}) as to:
        for headers in ({"X-API-Key": to.secret}, {"Authorization": f"apikey {to.secret}"}):
            async with http_connection(to.address, headers) as connection:
                status, _ = await connection.request("POST", "/v1/channels/orders:1/publish", {"data": "paid"})
                assert status == 200


# -- lines -------------------------------------------------------------------------------------------------------------


async def test_lines_are_counted_at_the_end(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to:
        async with stream(to) as connection:
            await connection.chunk(line(amount=1) + b"\n  \n" + line(amount=2))
            await connection.chunk(b'{"channel":"trades"}\n{"channel":\n' + line("task:1", status="x"))
            await connection.chunk(b'{"channel":"trades","data":{}}')  # the last one needs no end
            answer = await end(connection)
        assert await head_of(to) == 3
    assert answer.status == 200
    assert answer.json.pop("data") == {
        "published": 4,
        "failed": 2,
        "errors": [
            {"line": 5, "code": "invalid_request", "message": "data is required and must be an object"},
            {"line": 6, "code": "invalid_request", "message": "The message is not valid JSON."},
        ],
    }


async def test_lines_may_come_with_a_length_and_carriage_returns(tmp_path: Path) -> None:
    body = (line(amount=1) + line(amount=2)).replace(b"\n", b"\r\n")
    async with publisher(tmp_path) as to, raw_connection(to.address) as connection:
        for _ in range(2):
            key, length = f"X-API-Key: {to.secret}", f"Content-Length: {len(body)}"
            await connection.head("POST", PUBLISH, key, "Content-Type: application/x-ndjson", length)
            await connection.send(body)
            answer = await connection.answer()
            assert answer.json["data"] == {"published": 2, "failed": 0, "errors": []}


@pytest.mark.slow
async def test_each_line_is_published_as_it_arrives(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, live(to.address, "alice") as alice:
        await alice.ask(type="subscribe", channel="trades")
        async with stream(to) as connection:
            for number in range(5):
                whole = line(amount=number)
                await connection.chunk(whole[:-10])
                await alice.silent(0.05)
                await connection.chunk(whole[-10:])
                assert (await alice.receive())["data"] == {"amount": number}
            assert (await end(connection)).json["data"]["published"] == 5


async def test_lines_may_dribble_in_byte_by_byte(tmp_path: Path) -> None:
    body = line(amount=1) + line("market:BTC", price=2) + line(amount=3)[:-1]
    async with publisher(tmp_path) as to, stream(to) as connection:
        for byte in body:
            await connection.chunk(bytes([byte]))
        assert (await end(connection)).json["data"] == {"published": 3, "failed": 0, "errors": []}


@pytest.mark.slow
async def test_ten_thousand_lines_are_one_request(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, stream(to) as connection:
        for begin in range(0, 10_000, 100):
            await connection.chunk(b"".join(line(amount=begin + number) for number in range(100)))
        answer = await end(connection)
        assert await head_of(to) == 10_000
        _, history = await recent(to.server.broker, to.server.core.namespaces.parse("trades"))
    assert answer.json["data"] == {"published": 10_000, "failed": 0, "errors": []}
    assert [publication.data["amount"] for publication in history] == list(range(9500, 10_000))


async def test_a_line_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, stream(to) as connection:
        await connection.chunk(line(amount=1) + b'{"channel":"trades","data":{"x":"')
        for _ in range(40):
            await connection.chunk(b"x" * 50_000)
        await connection.chunk(b'"}}\n' + line(amount=2) + line(x="y" * MAX_ITEM_BYTES) + line(amount=3))
        answer = await end(connection)
        assert await head_of(to) == 3
    report = answer.json["data"]
    assert (report["published"], report["failed"]) == (3, 2)
    assert [(error["line"], error["code"]) for error in report["errors"]] == [(2, "too_large"), (4, "too_large")]


async def test_a_room_that_there_is_not_fails_its_lines(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, stream(to) as connection:
        await connection.chunk(line(amount=1) + line("chatroom:none", userId="bot", message="Hello") + line(amount=2))
        report = (await end(connection)).json["data"]
    assert report["published"] == 2
    assert [(error["line"], error["code"]) for error in report["errors"]] == [(2, "not_found")]


@pytest.mark.slow
async def test_what_came_whole_is_published_when_the_connection_drops(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to:
        async with stream(to) as connection:
            await connection.chunk(line(amount=1) + line("task:1", status="x") + line(amount=2))
            await connection.chunk(line(amount=3)[:-1])
        await until_head(to, 2)
        await until_head(to, 1, "task:1")
        await trio.sleep(0.1)
        assert await head_of(to) == 2, "a line without its end is not whole"


async def test_what_came_whole_is_published_when_the_chunks_are_broken(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to:
        async with stream(to) as connection:
            await connection.chunk(line(amount=1) + line(amount=2)[:10])
            await connection.send(b"no size\r\n")
            ended = await connection.ended()
        await until_head(to, 1)
        async with http_connection(to.address, to.headers) as other:
            _, body = await other.request("POST", PUBLISH, {"channel": "trades", "data": {}})
    assert body["data"][0]["offset"] == 2, "a line without its end is not whole"
    assert not ended or b" 400 " in ended.partition(b"\r\n")[0]


async def test_a_publisher_may_ask_before_it_sends(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, stream(to, "Expect: 100-continue") as connection:
        assert (await connection.answer()).status == 100
        await connection.chunk(line(amount=1))
        assert (await end(connection)).json["data"]["published"] == 1


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "POLL_INTERVAL", 0.05)
    async with publisher(tmp_path) as to:
        key, secret = await create_key(tmp_path, "publish")
        async with stream(attrs.evolve(to, secret=secret)) as connection:
            await connection.chunk(line(amount=1))
            await until_head(to, 1)
            await revoke_key(tmp_path, [key.id])
            ended = await connection.answer()
    assert ended.status == 401
    assert ended.json["message"].endswith(
        "Of your lines the first 1 were taken, and 1 of them published; none after them."
    )


async def test_a_stream_leaves_its_connection_to_the_next_request(tmp_path: Path) -> None:
    async with publisher(tmp_path) as to, stream(to) as connection:
        await connection.chunk(line(amount=1))
        assert (await end(connection)).status == 200
        await connection.head("GET", "/healthz")
        assert (await connection.answer()).status == 200


# -- lines, however they are cut ---------------------------------------------------------------------------------------


class FakePublishing:
    """Publishing that takes everything, keeps it, and refuses where it is told to."""

    def __init__(self, refusal: RequestError | None = None) -> None:
        self.calls: list[list[object]] = []
        self.refusal = refusal

    max_item_bytes = MAX_ITEM_BYTES

    def check_size(self, size: int) -> None:
        """Refuse what is too large for every namespace."""
        if size > MAX_ITEM_BYTES:
            raise too_large()

    def keeps_form(self, item: object) -> bool:
        """No namespace is configured."""
        return False

    def draft(self, item: object, *, scope: str, size: int, document: bytes | None = None) -> Draft:
        """Return a draft that carries the item."""
        if not isinstance(item, dict):
            raise RequestError(Code.INVALID_REQUEST, "No object.")
        return Draft(cast(Any, None), scope, item, size)

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Keep them."""
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.calls.append([draft.data for draft in drafts])
        return [Published(Position(1, "epoch"))] * len(drafts)

    @property
    def published(self) -> list[object]:
        """Everything, in order."""
        return [item for call in self.calls for item in call]


def lines_of(publishing: FakePublishing) -> Lines:
    """Return the lines that go to it."""
    return Lines(cast(Publishing, publishing), "key:1")


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Draw the lines of a body, good and bad, and the same body in pieces."""
    kinds = st.one_of(
        st.integers(0, 9).map(lambda number: b'{"n":%d}' % number),
        st.sampled_from([b"", b" ", b"[]", b"{", b"\xff", b'{"n":1}\r', b"\r"]),
        st.sampled_from([MAX_ITEM_BYTES - 1, MAX_ITEM_BYTES, MAX_ITEM_BYTES + 1, MAX_ITEM_BYTES + 2, 200_000]).map(
            lambda size: b'{"x":"' + b"x" * (size - 8) + b'"}'
        ),
    )
    lines = draw(st.lists(kinds, max_size=12))
    body = b"\n".join(lines)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=12)))
    return lines, [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@pytest.mark.slow
@given(bodies())
async def test_however_lines_are_cut_they_are_the_same(drawn: tuple[list[bytes], list[bytes]]) -> None:
    whole, pieces = drawn
    publishing = FakePublishing()
    lines = lines_of(publishing)
    for piece in pieces:
        await lines.feed(piece)
        assert len(lines._rest) <= MAX_ITEM_BYTES + 1, "what waits for its end is bounded"
    await lines.end()

    good, bad = [], []
    for number, text in enumerate(whole, 1):
        content = text.rstrip(b"\r")
        if content.isspace() or not content:
            continue
        if content.startswith(b'{"') and content.endswith(b"}") and len(content) <= MAX_ITEM_BYTES:
            good.append(json.loads(content))
        else:
            bad.append((number, "too_large" if len(content) > MAX_ITEM_BYTES else "invalid_request"))
    report = lines.report()
    assert publishing.published == good
    assert (report["published"], report["failed"]) == (len(good), len(bad))
    assert [(error["line"], error["code"]) for error in report["errors"]] == bad


async def test_a_carriage_return_is_no_part_of_a_line_wherever_it_is_cut() -> None:
    publishing = FakePublishing()
    lines = lines_of(publishing)
    await lines.feed(b'{"x":"' + b"x" * (MAX_ITEM_BYTES - 8) + b'"}\r')
    await lines.feed(b"\n")
    assert lines.report() == {"published": 1, "failed": 0, "errors": []}


async def test_all_lines_of_a_piece_go_together() -> None:
    publishing = FakePublishing()
    lines = lines_of(publishing)
    await lines.feed(b'{"n":1}\n{"n":2}\n{"n"')
    await lines.feed(b':3}\n{"n":4}\n')
    await lines.feed(b"\n")
    assert publishing.calls == [[{"n": 1}, {"n": 2}], [{"n": 3}, {"n": 4}]]


async def test_at_most_a_hundred_errors_are_named_and_all_are_counted() -> None:
    lines = lines_of(FakePublishing())
    await lines.feed(b"[]\n" * 250)
    report = lines.report()
    assert report["failed"] == 250
    assert [error["line"] for error in report["errors"]] == list(range(1, MAX_ERRORS + 1))


async def test_lines_that_cannot_be_stored_fail_and_the_next_ones_are_tried() -> None:
    publishing = FakePublishing(RequestError(Code.UNAVAILABLE, "The database is not available."))
    lines = lines_of(publishing)
    await lines.feed(b'{"n":1}\n[]\n{"n":2}\n')
    publishing.refusal = None
    await lines.feed(b'{"n":3}\n')
    report = lines.report()
    assert (report["published"], report["failed"], publishing.published) == (1, 3, [{"n": 3}])
    codes = ["unavailable", "invalid_request", "unavailable"]
    assert [(error["line"], error["code"]) for error in report["errors"]] == list(zip((1, 2, 3), codes, strict=True))


async def test_many_lines_at_once_let_other_tasks_run() -> None:
    turns = 0
    async with trio.open_nursery() as nursery:

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(count)
        await lines_of(FakePublishing()).feed(b"[]\n" * 20 * ITEMS_PER_TURN)
        nursery.cancel_scope.cancel()
    assert turns >= 15
