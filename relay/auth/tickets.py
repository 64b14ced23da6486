"""Tickets: what an EventSource brings in its URL, because it cannot send a header. A URL ends up in logs, so a token must not be there.

A ticket opens one stream, within seconds. The server sends the stream a *key* with each event. A browser that lost its stream asks the
same URL again, and sends the key in `Last-Event-ID`. With it the ticket opens further streams until the token expires. So a
ticket alone, found in a log, is of no use. A ticket holds all that is needed to verify it, so it outlives a restart.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from relay.ground import strictjson
from relay.ground.clock import Clock
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.grants import Grants, compile_patterns
from relay.model.principal import Principal
from relay.store.database import Database
from relay.store.meta import get_or_create

MAX_TICKET_CHARACTERS = 4096
"""Length of a ticket: the claim `info` and the id of a user are the long parts of it."""
MAX_USED = 100_000
"""Used tickets that are remembered while they could open a stream. With more, no ticket opens a first stream."""
MAC_BYTES = 16
"""Bytes of a message authentication code: 128 bits."""
KEY_CHARACTERS = 12
"""Characters of the key that proves that a client had a stream by the ticket: 72 bits, because each cursor holds it."""


@attrs.frozen
class Ticket:
    """A verified ticket."""

    principal: Principal
    """Its user, with grants for the channels of the ticket alone."""
    key: str
    """The text that the server sends to the stream, and that proves later that the client had one."""
    nonce: str
    issued_ms: int
    open_until_ms: int


class Tickets:
    """Issues and verifies tickets. The nodes that share a database share their secret; each remembers the used ones by itself."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._secret: bytes | None = None
        self._began_ms = clock.now_ms()
        self._used: OrderedDict[str, int] = OrderedDict()  # nonce to the time in ms at which it is of no use any more

    @property
    def used_count(self) -> int:
        """The number of used tickets that are remembered."""
        return len(self._used)

    async def issue(
        self, principal: Principal, channels: Sequence[str], granted: Sequence[str], period: float
    ) -> tuple[str, int]:
        """Return a ticket for these channels, in this order, and the time (Unix, ms) until which it opens a stream.

        `granted` are those of `channels` that a grant of the token covers. `period` is in seconds. A checkpoint at the first call.

        Raises:
            RequestError: the store cannot be written.
        """
        secret = await self._load()
        now_ms = self._clock.now_ms()
        until = now_ms + int(period * 1000)
        claims: dict[str, Any] = {"u": principal.user_id, "t": now_ms, "o": until, "n": secrets.token_urlsafe(9)}
        if principal.expires_at is not None:
            claims["e"] = int(principal.expires_at.timestamp() * 1000)
            until = min(until, claims["e"])
        if principal.is_admin:
            claims["a"] = True
        if granted:
            claims["g"] = [channels.index(name) for name in granted]
        if principal.info is not None:
            claims["i"] = strictjson.loads(principal.info)
        payload = _text(strictjson.dumps(claims))
        return f"{payload}.{_mac(secret, 'ticket', payload, channels)}", until

    async def verify(self, text: str, channels: Sequence[str]) -> Ticket:
        """Return a ticket that was issued for these channels. It does not open a stream by itself: see `use`.

        A checkpoint at the first call.

        Raises:
            RequestError: `UNAUTHORIZED`; the ticket is forged, for other channels, or its user's token has expired.
        """
        secret = await self._load()
        payload, _, mac = text[:MAX_TICKET_CHARACTERS].partition(".")
        if not hmac.compare_digest(mac.encode(), _mac(secret, "ticket", payload, channels).encode()):
            raise RequestError(Code.UNAUTHORIZED, "The ticket is not valid for these channels in this order.")
        try:
            claims: Mapping[str, Any] = strictjson.loads_object(
                base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
            )
        except (binascii.Error, ProtocolError) as error:
            raise RequestError(Code.UNAUTHORIZED, "The ticket is not valid.") from error
        expires_ms = claims.get("e")
        if expires_ms is not None and expires_ms <= self._clock.now_ms():
            raise RequestError(Code.UNAUTHORIZED, "The token that the ticket was issued for has expired.")
        grants = compile_patterns([channels[index] for index in claims.get("g", ())])
        principal = Principal(
            claims["u"],
            is_admin=claims.get("a", False),
            expires_at=None if expires_ms is None else datetime.fromtimestamp(expires_ms / 1000, UTC),
            grants=Grants(subscribe=grants),
            info=strictjson.dumps(claims["i"]) if "i" in claims else None,
        )
        key = _mac(secret, "key", payload, channels)[:KEY_CHARACTERS]
        return Ticket(principal, key, claims["n"], claims["t"], claims["o"])

    def use(self, ticket: Ticket) -> None:
        """Record that a ticket opens its first stream.

        Raises:
            RequestError: `UNAUTHORIZED`; the ticket is used or too old. `UNAVAILABLE`: too many are in use.
        """
        now_ms = self._clock.now_ms()
        while self._used and next(iter(self._used.values())) <= now_ms:
            self._used.popitem(last=False)
        # A ticket from before this server started may have been used then.
        if ticket.open_until_ms <= now_ms or ticket.issued_ms < self._began_ms:
            raise RequestError(Code.UNAUTHORIZED, "The ticket is too old. Ask for another one.")
        if ticket.nonce in self._used:
            raise RequestError(Code.UNAUTHORIZED, "The ticket was used. Ask for another one.")
        if len(self._used) >= MAX_USED:
            raise RequestError(Code.UNAVAILABLE, "Too many tickets are in use.")
        self._used[ticket.nonce] = ticket.open_until_ms

    async def _load(self) -> bytes:
        if self._secret is None:
            self._secret = (await self._database.write(lambda store: get_or_create(store, "ticket_secret"))).encode()
        return self._secret


def proves(ticket: Ticket, key: str | None) -> bool:
    """Return whether a client that sends this key had a stream by the ticket. Takes the same time for every key."""
    return key is not None and hmac.compare_digest(key.encode(), ticket.key.encode())


def _mac(secret: bytes, purpose: str, payload: str, channels: Sequence[str]) -> str:
    # A name has no control characters, so the texts can be taken apart in one way only.
    message = "\n".join((purpose, payload, *channels)).encode()
    return _text(hmac.digest(secret, message, "sha256")[:MAC_BYTES])


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
