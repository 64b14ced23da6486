"""The rules for subscribing to a channel and for publishing to it. Every dialect and every route asks here."""

from __future__ import annotations

from typing import assert_never

from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RequestError
from relay.model.kinds import Audience, ChannelName, Publishers
from relay.model.principal import Principal


async def check_subscribe(rooms: Rooms, principal: Principal | None, channel: ChannelName) -> None:
    """Raise unless the principal may subscribe to the channel. A checkpoint only if the store is asked about a room.

    `principal` is None for a client that is not authenticated.

    Raises:
        RequestError: `UNAUTHORIZED` without a principal, `FORBIDDEN` or `NOT_FOUND` without the right; or the store
            cannot read.
    """
    audience = channel.kind.audience
    if audience is Audience.ANYONE:
        return
    if principal is None:
        raise RequestError(Code.UNAUTHORIZED, "Authenticate first.")
    match audience:
        case Audience.USERS:
            return
        case Audience.OWNER:
            if channel.id != principal.user_id and not principal.is_admin:
                raise RequestError(Code.FORBIDDEN, "This is another user's channel.")
        case Audience.ROOM:
            await rooms.may_read(principal, channel.id)
        case _:
            assert_never(audience)


async def check_publish(rooms: Rooms, principal: Principal | None, channel: ChannelName) -> None:
    """Raise unless the principal may publish to the channel. A checkpoint only if the store is asked about a room.

    `principal` is None for a client that is not authenticated: such a client publishes nowhere.

    Raises:
        RequestError: as `check_subscribe`.
    """
    if principal is None:
        raise RequestError(Code.UNAUTHORIZED, "Authenticate first.")
    publishers = channel.kind.publishers
    match publishers:
        case Publishers.BACKENDS:
            check_backend(principal)
        case Publishers.SUBSCRIBERS:
            if "publish" not in principal.scopes:  # an admin, too, is told that a room does not exist
                await check_subscribe(rooms, principal, channel)
        case _:
            assert_never(publishers)


def is_backend(principal: Principal) -> bool:
    """Return whether the principal may publish to every channel: an admin, or an API key with scope `publish`."""
    return principal.is_admin or "publish" in principal.scopes


def check_backend(principal: Principal) -> None:
    """Raise unless the principal may publish to every channel.

    Raises:
        RequestError: `FORBIDDEN`.
    """
    if not is_backend(principal):
        raise RequestError(
            Code.FORBIDDEN, "Publishing needs an API key with scope publish or admin, or the token of an admin."
        )
