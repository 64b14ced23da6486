"""The publications of a load and the frames of its subscribers, in each dialect.

Pure; it knows only documented frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

import attrs


@attrs.frozen
class Standing:
    """A subscriber's position: an offset for each channel, and the epoch if there is only one."""

    offsets: tuple[int, ...]
    epoch: str = ""
    recovered: bool | None = None


class Refused(Exception):
    """The server refused. The message is for people."""


class Subject(Protocol):
    """One kind of subscriber, and the channels that it subscribes to."""

    @property
    def channels(self) -> Sequence[str]:
        """The channel names for POST /v1/publish."""

    @property
    def authenticates(self) -> bool:
        """Whether a token is needed."""

    @property
    def latest(self) -> bool:
        """Whether a newer publication may replace one that is queued for a slow subscriber."""

    @property
    def ordered(self) -> bool:
        """Whether there is only one publisher, so publications arrive in the order of their sequences."""

    def path(self, token: str) -> str:
        """Return the path of the WebSocket upgrade."""

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return the first messages to send."""

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return the position in the response to `hello`, or None if this is another message. Raises `Refused`."""

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication with this text."""


@attrs.frozen
class Live:
    """A `live` session and one subscription, to a channel or to symbols of the market."""

    subscribe: dict[str, Any]
    channels: Sequence[str]
    fields: dict[str, Any] = attrs.field(factory=dict)
    latest: bool = False
    ordered: bool = True
    authenticates: bool = True

    def path(self, token: str) -> str:
        """Return the path of the WebSocket upgrade."""
        return "/v1/live"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return both frames. The server handles the second one after the `auth`."""
        subscribe = {"type": "subscribe", **self.subscribe, **_since(since)}
        return [{"type": "auth", "token": token}, subscribe]

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return the position in `subscribed`."""
        if message["type"] in ("error", "auth:error"):
            raise Refused(f"{message['data']['code']}: {message['data']['message']}")
        if message["type"] != "subscribed":
            return None
        data = message["data"]
        if "positions" in data:
            return Standing(tuple(data["positions"][name.partition(":")[2]]["offset"] for name in self.channels))
        return Standing((data["offset"],), data["epoch"], data.get("recovered"))

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication."""
        return {**self.fields, "note": text}


@attrs.frozen
class Channels:
    """A `channels` connection and one subscription."""

    channels: Sequence[str]
    latest: bool = False
    ordered: bool = True
    authenticates: bool = True

    def path(self, token: str) -> str:
        """Return the path of the WebSocket upgrade."""
        return f"/api/ws?token={quote(token)}"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return the subscription."""
        return [{"type": "subscribe", "data": {"channel": self.channels[0], **_since(since)}}]

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return the position in `subscribed`."""
        if message["type"] == "error":
            raise Refused(f"{message['data']['code']}: {message['data']['message']}")
        if message["type"] != "subscribed":
            return None
        data = message["data"]
        return Standing((data["offset"],), data["epoch"], data.get("recovered"))

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication."""
        return {"status": text}


@attrs.frozen
class Feeds:
    """A client of the trades feed, which sends nothing.

    Messages have no offset, so the sequence of the stamp replaces it.
    """

    channels: Sequence[str] = ("trades",)
    latest: bool = False
    ordered: bool = True
    authenticates: bool = False

    def path(self, token: str) -> str:
        """Return the path of the WebSocket upgrade."""
        return "/api/v1/ws/trades"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return nothing."""
        return []

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return the start position once `init` arrives."""
        return Standing((0,)) if message["type"] == "init" else None

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication."""
        return {"amount": 1, "token": "YES", "name": text}


def one_channel(dialect: str, run: str, *, durable: bool) -> Subject:
    """Return the subject of a fan-out: a write-behind channel, or a durable one.

    If the kind of channel has ids, `run` is part of the name, so no other publisher uses it.
    """
    if dialect == "feeds":
        return Feeds()
    if dialect == "channels":
        return Channels((f"task:bench-{run}",))
    if durable:
        community = f"bench-{run}"
        return Live({"channel": "community", "communityId": community}, (f"community:{community}",))
    return Live({"channel": "trades"}, ("trades",), {"tradeId": "bench", "symbol": "EUR/USD"})


def market(symbols: int, run: str) -> Subject:
    """Return the subject of a market. Each subscriber subscribes to all symbols."""
    names = [f"BENCH-{run.upper()}-{number}" for number in range(1, symbols + 1)]
    subscribe = {"channel": "market", "symbols": names}
    return Live(subscribe, tuple(f"market:{name}" for name in names), {"price": 1.0875}, latest=True)


def chatroom(room: str) -> Subject:
    """Return the subject of a chat."""
    return Live({"channel": "chatroom", "chatroomId": room}, (f"chatroom:{room}",), ordered=False)


def line(subject: Subject, channel: int, text: str) -> bytes:
    """Return a publication as a line of NDJSON."""
    return json.dumps({"channel": subject.channels[channel], "data": subject.data(text)}).encode() + b"\n"


def _since(since: Standing | None) -> dict[str, Any]:
    return {} if since is None else {"since": {"offset": since.offsets[0], "epoch": since.epoch}}
