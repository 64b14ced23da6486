"""What a load publishes and what its subscribers say, in each dialect. Pure; it knows the documented messages and no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

import attrs


@attrs.frozen
class Standing:
    """Where a subscriber stands, as the server said: an offset for each channel, and the epoch where there is only one."""

    offsets: tuple[int, ...]
    epoch: str = ""
    recovered: bool | None = None


class Refused(Exception):
    """The server said no; the text is for people."""


class Subject(Protocol):
    """One kind of subscriber and the channels that it listens to."""

    @property
    def channels(self) -> Sequence[str]:
        """Names for POST /v1/publish."""

    @property
    def authenticates(self) -> bool:
        """Whether a token is needed."""

    @property
    def latest(self) -> bool:
        """Whether a newer publication may replace one that a slow reader did not get yet."""

    @property
    def ordered(self) -> bool:
        """Whether there is one publisher, so that publications come in the order of their sequences."""

    def path(self, token: str) -> str:
        """Return what to upgrade at."""

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return what to say first."""

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return what the answer to it says, None if this is another message; raises `Refused`."""

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication that holds this text."""


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
        """Return what to upgrade at."""
        return "/v1/live"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return both frames: what comes behind an `auth` waits for it."""
        subscribe = {"type": "subscribe", **self.subscribe, **_since(since)}
        return [{"type": "auth", "token": token}, subscribe]

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return what `subscribed` says."""
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
        """Return what to upgrade at."""
        return f"/api/ws?token={quote(token)}"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return the subscription."""
        return [{"type": "subscribe", "data": {"channel": self.channels[0], **_since(since)}}]

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return what `subscribed` says."""
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
    """A client of the trades feed, which says nothing. Messages have no offset, so the sequence in the mark stands for it."""

    channels: Sequence[str] = ("trades",)
    latest: bool = False
    ordered: bool = True
    authenticates: bool = False

    def path(self, token: str) -> str:
        """Return what to upgrade at."""
        return "/api/v1/ws/trades"

    def hello(self, token: str, since: Standing | None) -> list[dict[str, Any]]:
        """Return nothing."""
        return []

    def standing(self, message: dict[str, Any]) -> Standing | None:
        """Return the beginning, once `init` is there."""
        return Standing((0,)) if message["type"] == "init" else None

    def data(self, text: str) -> dict[str, Any]:
        """Return the data of a publication."""
        return {"amount": 1, "token": "YES", "name": text}


def one_channel(dialect: str, run: str, *, durable: bool) -> Subject:
    """Return the subject of a fan-out: a channel that is written behind, or one that is committed first.

    `run` is part of the names where a kind of channel has ids, so that nobody else publishes there.
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
    """Return the subject of a market: every subscriber takes all symbols."""
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
