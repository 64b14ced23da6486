"""The rules for subscribing to a channel and for publishing to it. Every dialect and every route asks here."""

from __future__ import annotations

import enum
from typing import assert_never

from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName, PublishRule, SubscribeRule
from relay.model.principal import Principal
from relay.model.subscription_proof import SubscriptionProof


class Basis(enum.Enum):
    """The ground on which a caller has a right."""

    ADMIN = "the caller is an admin"
    RULE = "the rule of the namespace includes the caller"
    GRANT = "a grant of the token matches"
    SUBSCRIPTION_TOKEN = "the subscription token is for this channel"  # noqa: S105 - not a secret


async def check_subscribe(
    rooms: Rooms, principal: Principal | None, channel: ChannelName, proof: SubscriptionProof | None = None
) -> None:
    """Raise unless the principal may subscribe to the channel. A checkpoint only if the store is asked about a room.

    `principal` is None for a client that is not authenticated. `proof` came with the request and is verified: in a
    namespace of the configuration it decides alone, and in a built-in namespace it changes nothing.

    Raises:
        RequestError: `UNAUTHORIZED` without a principal, `FORBIDDEN` or `NOT_FOUND` without the right, each with its
            reason; or the store cannot read.
    """
    namespace = channel.namespace
    if not namespace.built_in:
        basis_to_subscribe(principal, channel, proof)
        return
    rule = namespace.subscribe
    if rule is SubscribeRule.ANYONE:
        return
    known = _authenticated(principal)
    match rule:
        case SubscribeRule.USERS | SubscribeRule.OWNER:
            _check_user(known, channel)
        case SubscribeRule.ROOM:
            await rooms.readable(known, channel.id)
        case SubscribeRule.GRANTED | SubscribeRule.NOBODY:
            basis_to_subscribe(known, channel)
        case _:
            assert_never(rule)


def basis_to_subscribe(
    principal: Principal | None, channel: ChannelName, proof: SubscriptionProof | None = None
) -> Basis:
    """Return why the principal may subscribe to a channel of the configuration. The first basis counts.

    Raises:
        RequestError: as `check_subscribe`.
    """
    rule = channel.namespace.subscribe
    if principal is not None and principal.is_admin:
        return Basis.ADMIN
    if rule is SubscribeRule.NOBODY:
        raise _forbidden(RefusalReason.CLOSED, "Only admins may subscribe to this channel.")
    if proof is not None:
        proof.check(channel.text, None if principal is None else principal.user_id)
        return Basis.SUBSCRIPTION_TOKEN
    if rule is SubscribeRule.ANYONE:
        return Basis.RULE
    known = _authenticated(principal)
    if rule is SubscribeRule.USERS or (rule is SubscribeRule.OWNER and is_owner(known.user_id, channel.id)):
        return Basis.RULE
    if known.grants.subscribe.match(channel.text):
        return Basis.GRANT
    if rule is SubscribeRule.OWNER:
        raise _forbidden(RefusalReason.NOT_OWNER, "This is another user's channel, and the token has no grant for it.")
    raise _forbidden(RefusalReason.NO_GRANT, "The token has no grant for this channel.")


async def check_publish(
    rooms: Rooms, principal: Principal | None, channel: ChannelName, *, subscribed: bool = False
) -> None:
    """Raise unless the principal may publish to the channel. A checkpoint only if the store is asked about a room.

    `principal` is None for a client that is not authenticated: such a client publishes nowhere. `subscribed` tells
    whether the connection has a live subscription to the channel, which it proves that it may have.

    Raises:
        RequestError: as `check_subscribe`.
    """
    known = _authenticated(principal)
    namespace = channel.namespace
    if not namespace.built_in:
        basis_to_publish(known, channel, subscribed=subscribed)
    elif namespace.publish is PublishRule.NOBODY:
        check_backend(known)
    # An admin, too, is told that a room does not exist.
    elif not subscribed and "publish" not in known.scopes:
        await check_subscribe(rooms, known, channel)


def basis_to_publish(principal: Principal | None, channel: ChannelName, *, subscribed: bool) -> Basis:
    """Return why the principal may publish to a channel of the configuration. Raises as `check_publish`."""
    known = _authenticated(principal)
    if is_backend(known):
        return Basis.ADMIN
    rule = channel.namespace.publish
    if rule is PublishRule.USERS or (rule is PublishRule.SUBSCRIBERS and subscribed):
        return Basis.RULE
    if rule is not PublishRule.NOBODY and known.grants.publish.match(channel.text):
        return Basis.GRANT
    match rule:
        case PublishRule.SUBSCRIBERS:
            raise _forbidden(RefusalReason.NOT_SUBSCRIBED, "Subscribe to this channel before you publish to it.")
        case PublishRule.GRANTED:
            raise _forbidden(RefusalReason.NO_GRANT, "The token has no grant to publish to this channel.")
        case PublishRule.NOBODY:
            raise _forbidden(RefusalReason.PUBLISH_NOT_ALLOWED, "Only backends may publish to this channel.")
        case _:
            assert_never(rule)


def check_without_rooms(
    channel: ChannelName, principal: Principal | None, proof: SubscriptionProof | None, *, publishing: bool
) -> Basis | None:
    """Return why the principal has the right to a channel; None if that depends on the members of a room.

    Raises:
        RequestError: as `check_subscribe` and `check_publish`.
    """
    namespace = channel.namespace
    if not namespace.built_in:
        if publishing:
            # As a subscriber, if it may become one: the caller has no connection yet.
            return basis_to_publish(principal, channel, subscribed=_may_subscribe(principal, channel))
        return basis_to_subscribe(principal, channel, proof)
    if principal is not None and principal.is_admin:
        return Basis.ADMIN
    if namespace.subscribe is SubscribeRule.ROOM and not (publishing and is_backend(_authenticated(principal))):
        _authenticated(principal)
        return None
    if publishing:
        check_backend(_authenticated(principal))
    elif namespace.subscribe is not SubscribeRule.ANYONE:
        _check_user(_authenticated(principal), channel)
    return Basis.RULE


def _may_subscribe(principal: Principal | None, channel: ChannelName) -> bool:
    try:
        basis_to_subscribe(principal, channel)
    except RequestError:
        return False
    return True


def _check_user(principal: Principal, channel: ChannelName) -> None:
    """Raise unless a user may subscribe to a built-in channel that is not a room."""
    owned = channel.namespace.subscribe is SubscribeRule.OWNER
    if owned and channel.id != principal.user_id and not principal.is_admin:
        raise _forbidden(RefusalReason.NOT_OWNER, "This is another user's channel.")


def is_owner(user_id: str, id_: str) -> bool:
    """Return whether a user owns the channel with this id: the user's own id, or `...#<user id>,<user id>`.

    A user id that contains `#` or `,` owns the channel of that whole id only.
    """
    _, mark, owners = id_.rpartition("#")
    return user_id == id_ or (mark == "#" and user_id in owners.split(","))


def is_backend(principal: Principal) -> bool:
    """Return whether the principal may publish to every channel: an admin, or an API key with scope `publish`."""
    return principal.is_admin or "publish" in principal.scopes


def check_backend(principal: Principal) -> None:
    """Raise unless the principal may publish to every channel.

    Raises:
        RequestError: `FORBIDDEN`.
    """
    if not is_backend(principal):
        raise _forbidden(
            RefusalReason.PUBLISH_NOT_ALLOWED,
            "Publishing needs an API key with scope publish or admin, or the token of an admin.",
        )


def unauthenticated() -> RequestError:
    """Return the refusal of a client that must authenticate first."""
    return RequestError(Code.UNAUTHORIZED, "Authenticate first.", reason=RefusalReason.NOT_AUTHENTICATED)


def _authenticated(principal: Principal | None) -> Principal:
    if principal is None:
        raise unauthenticated()
    return principal


def _forbidden(reason: RefusalReason, message: str) -> RequestError:
    return RequestError(Code.FORBIDDEN, message, reason=reason)
