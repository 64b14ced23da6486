"""One server with secrets in it, and everyone who may or may not learn them.

Each secret is a word that stands nowhere else, so that whatever a role is sent can be searched for what is not its to know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from relay.auth.verifier import mint
from relay.ground.clock import Clock
from relay.model.principal import Principal
from relay.server.server import Server
from relay.store import api_keys as keys
from relay.store.rooms import RoomType
from tests.running import config_for, running, token

ROOM_TYPES: tuple[RoomType, ...] = ("public", "group", "private")
TOKEN_ROLES = ("stranger", "removed", "member", "owner", "admin")
"""Who have a good token. `removed` was a member of every room, and is none now."""
KEY_ROLES = ("connect", "publish", "operator")
"""API keys of the user `member`, by scope; `operator` has the scope `admin`."""
UNKNOWN_ROLES = ("nobody", "forged", "expired", "none", "revoked")
"""Whoever is nobody: without credentials, a token signed by another, one that expired, `alg: none`, a revoked key."""

INSIDERS = frozenset({"member", "owner", "admin", "operator"})
USERS = frozenset({*TOKEN_ROLES, "operator"})
SECRETS: Mapping[str, frozenset[str]] = {
    "word-public-name": USERS,
    "word-public-text": USERS,
    "word-group-name": USERS,
    "word-group-text": INSIDERS,
    "word-private-name": INSIDERS,
    "word-private-text": INSIDERS,
    "word-notification": frozenset({"owner"}),
}
"""What is to be known, and by whom."""
SETTINGS = {
    "server.metrics_allowed_addresses": [],
    "limits.frames_per_minute": 1_000_000,
    "limits.messages_per_minute": 1_000_000,
    "limits.handshakes_per_minute": 1_000_000,
    "limits.requests_per_minute": 1_000_000,
    "limits.auth_failures_per_minute": 1_000_000,
}


@attrs.frozen
class Cell:
    """One role's rooms and what is in them, made anew for each request that may change them."""

    rooms: Mapping[str, str]
    """By type; and `missing`, which there is none of."""
    notification: str
    private_message: str


class World:
    """A running server, and what its secrets are."""

    def __init__(self, server: Server, address: str, secrets: Mapping[str, str]) -> None:
        self.server = server
        self.address = address
        self._keys = secrets
        expired = token("owner", expires_in=-5.0)
        forged = mint("another-secret-of-thirty-two-bytes-or-more", user_id="owner", now=Clock().now(), expires_in=60.0)
        self.tokens = {role: token(role, admin=role == "admin") for role in TOKEN_ROLES}
        self.bad_tokens = {
            "nobody": "",
            "forged": forged,
            "expired": expired,
            "none": unsigned("owner"),
            "revoked": secrets["revoked"],
            **{role: secrets[role] for role in KEY_ROLES},
        }
        """Whatever is no token; a key is none."""

    @property
    def keys(self) -> Mapping[str, str]:
        """The secrets of API keys, by role."""
        return self._keys

    def headers(self, role: str) -> dict[str, str]:
        """Return how a role says who it is over HTTP."""
        if role in self.tokens:
            return {"Authorization": f"Bearer {self.tokens[role]}"}
        if role in self._keys:
            return {"X-API-Key": self._keys[role]}
        return {} if role == "nobody" else {"Authorization": f"Bearer {self.bad_tokens[role]}"}

    async def cell(self) -> Cell:
        """Make a room of each type with its member, its message and its former member; and the owner's notification."""
        core = self.server.core
        owner, made = Principal("owner"), {"missing": "room_missing"}
        for type_ in ROOM_TYPES:
            room = await core.rooms.create(owner, name=f"word-{type_}-name", description=None, type_=type_)
            await core.rooms.add_member(owner, room.id, "member")
            await core.rooms.add_member(owner, room.id, "removed")
            await core.rooms.remove_member(owner, room.id, "removed")
            posted = await core.messages.post(owner, room.id, f"word-{type_}-text", limit=lambda: None)
            made[type_] = room.id
        sent = await core.notifications.send("owner", title=None, message="word-notification")
        assert type_ == "private"
        return Cell(made, sent["id"], posted.message.id)

    async def state(self, cell: Cell) -> Any:
        """Return everything that a request could change of a cell."""
        core, owner, root = self.server.core, Principal("owner"), Principal("root", is_admin=True)
        found = [
            (
                await core.rooms.get(root, cell.rooms[type_]),
                await core.rooms.members(root, cell.rooms[type_], limit=100, offset=0),
            )
            for type_ in ROOM_TYPES
        ]
        _, total = await core.rooms.visible(root, type_=None, limit=1, offset=0)
        notifications, _ = await core.notifications.list(owner.user_id, limit=100, offset=0)
        return found, total, notifications


def unsigned(user: str) -> str:
    """Return a token that says that it needs no signature."""
    return f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{token(user).split('.')[1]}."


def leaks(role: str, said: Sequence[bytes | str]) -> set[str]:
    """Return the secrets that were said to a role and are not its to know."""
    text = "".join(one if isinstance(one, str) else one.decode(errors="replace") for one in said)
    return {secret for secret, known_by in SECRETS.items() if secret in text and role not in known_by}


def table(text: str) -> dict[str, dict[str, str]]:
    """Return a table as rows by name and cells by column. The first line has the columns; two spaces part the name.

    A column `*` stands for every role that is unknown, `key` for every API key.
    """
    head, *lines = [line for line in text.splitlines() if line.strip()]
    columns = head.split()
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        name, _, cells = line.strip().partition("  ")
        values = cells.split()
        assert len(values) == len(columns), f"{name}: {len(values)} cells for {len(columns)} columns"
        assert name not in rows, f"{name}: twice"
        row = dict(zip(columns, values, strict=True))
        if "*" in row:
            unknown = row.pop("*")
            row = {**dict.fromkeys(UNKNOWN_ROLES, unknown), **row}
        rows[name] = row
    return rows


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    """Start a server with everyone's keys in it."""
    async with running(config_for(folder, SETTINGS)) as (server, address):

        def make(connection: Any) -> dict[str, str]:
            made = {}
            for role, scope in (
                ("connect", "connect"),
                ("publish", "publish"),
                ("operator", "admin"),
                ("revoked", "admin"),
            ):
                key, made[role] = keys.create(
                    connection, prefix="rk", mode="test", user_id="member", tier="pro", scopes=[scope], now_ms=1
                )
                if role == "revoked":
                    keys.revoke(connection, key.id, 2)
            return made

        yield World(server, address, await server.database.write(make))
