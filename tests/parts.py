"""The core without a server: its real parts on a real database file, and listeners that keep what they are given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from relay.auth.api_keys import ApiKeys
from relay.auth.auth import Auth
from relay.auth.console_sessions import ConsoleSessions
from relay.auth.tickets import Tickets
from relay.auth.tokens import Tokens
from relay.auth.users import Users
from relay.auth.verifier import TokenVerifier
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.store_follower import StoreFollower
from relay.broker.subscription import Subscriber
from relay.chat.messages import Messages, Posted
from relay.chat.notifications import Notifications
from relay.chat.rooms import Rooms
from relay.config.namespaces import Options
from relay.ground.clock import Clock
from relay.ground.timers import Timers
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal
from relay.model.publication import Publication
from relay.sessions.connections import Connections
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from relay.store.database import Database
from tests.fakes import MemoryTransport, RecordingSink
from tests.stores import running_store

SECRET = "s" * 32
"""The secret of the tokens that the parts accept."""
START_MS = 1_760_000_000_000


class SetClock(Clock):
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now(self) -> datetime:
        """Return the time, aware and in UTC."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        return self.ms


@attrs.frozen
class Parts:
    """The parts of the core that rooms, notifications and users work with."""

    database: Database
    clock: SetClock
    namespaces: Namespaces
    presence: Presence
    broker: Broker
    rooms: Rooms
    messages: Messages
    notifications: Notifications
    users: Users
    auth: Auth
    connections: Connections


@asynccontextmanager
async def open_parts(folder: Path, configured: Mapping[str, Options] | None = None) -> AsyncIterator[Parts]:
    """Open the parts on a database in `folder`; what was there before is there again."""
    clock = SetClock()
    async with running_store(folder, clock) as store:
        database, publications = store.database, store.publications
        await publications.open()
        kinds = Namespaces(entities=("task",), history_period=86400.0, durable=(), configured=configured)
        presence = Presence(Timers(), offline_grace=5.0)
        broker = Broker(publications, presence, clock)
        rooms = Rooms(database, broker, presence, kinds, clock)
        messages = Messages(database, broker, rooms, kinds, clock, idempotency_period=300.0)
        notifications = Notifications(database, broker, kinds, clock)
        follower = StoreFollower(broker)
        publications.bind(follower.delivered_offset, follower.receive, follower.renew, follower.drop)
        users = Users(database, clock)
        keys = ApiKeys(database)
        tokens = Tokens(TokenVerifier(secrets=[SECRET]), clock)
        auth = Auth(tokens, keys, ConsoleSessions(database, keys, clock), users, Tickets(database, clock), clock)
        yield Parts(
            database, clock, kinds, presence, broker, rooms, messages, notifications, users, auth, Connections()
        )
        await publications.close()


def user(
    user_id: str, *, first_name: str | None = None, last_name: str | None = None, avatar: str | None = None
) -> Principal:
    """Return a user."""
    return Principal(user_id, first_name=first_name, last_name=last_name, avatar=avatar)


async def post(parts: Parts, sender: Principal, room_id: str, text: str, **more: Any) -> Posted:
    """Post a message with no limit on how many."""
    return await parts.messages.post(sender, room_id, text, limit=lambda: None, **more)


def admin(user_id: str = "root") -> Principal:
    """Return an admin."""
    return Principal(user_id, is_admin=True)


def encode(publication: Publication) -> bytes:
    """Return a publication in the words of these tests, as JSON."""
    return json.dumps({"type": publication.type, "offset": publication.offset, "data": publication.data}).encode()


class Ear(RecordingSink):
    """The sink of a subscriber: its frames are kept, decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []

    def push(self, frame: bytes) -> None:
        """Keep a frame."""
        super().push(frame)
        self.heard.append(json.loads(frame))

    def push_latest(self, key: str, frame: bytes) -> None:
        """Keep a frame; the older ones of its key stay."""
        super().push_latest(key, frame)
        self.heard.append(json.loads(frame))

    def receive(self, publication: Publication) -> None:
        """Take the publication that this one sent. See `models.Origin`."""
        self.heard.append({"own": publication.data, "offset": publication.offset})

    @property
    def sink(self) -> Ear:
        """Where the frames of this origin go."""
        return self

    def take(self) -> list[dict[str, Any]]:
        """Return what was heard since this was last asked."""
        heard, self.heard = self.heard, []
        return heard


@asynccontextmanager
async def listening(parts: Parts, listener: Principal, channel: str) -> AsyncIterator[Ear]:
    """Subscribe to a channel, for as long as the block lasts; a subscription that is revoked is heard of too."""
    ear = Ear()
    with parts.broker.attach(ear, encode) as subscriber:
        parts.broker.identify(subscriber, listener)
        subscriber.call_when_revoked(lambda name, reason: ear.heard.append({"revoked": name.text, "reason": reason}))
        await subscribe(parts, subscriber, channel)
        yield ear


async def subscribe(parts: Parts, subscriber: Subscriber, channel: str) -> None:
    """Subscribe without a look at rights."""
    nothing = lambda: None  # noqa: E731
    outbox = Outbox(MemoryTransport(), Flusher(), 1000, on_blocked=nothing, on_overflow=nothing)
    with parts.broker.reserved(subscriber, [parts.namespaces.parse(channel)], maximum=10) as [subscription]:
        await parts.broker.subscribe(
            subscriber, subscription, outbox=outbox, since=None, answer=lambda position, recovered: None
        )
