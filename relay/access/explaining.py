"""Explains step by step why a principal may subscribe to a channel or publish to it, or why not, and what would change it."""

from __future__ import annotations

import attrs

from relay.access.rules import check_publish, check_subscribe, is_backend
from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RequestError
from relay.model.kinds import Audience, ChannelName, Kinds, Publishers
from relay.model.principal import Principal


@attrs.frozen
class Step:
    """One step of an explanation: the thing that was looked at, and the finding."""

    check: str
    found: str


@attrs.frozen
class Explanation:
    """Whether an action is allowed, and the steps to that answer."""

    allowed: bool
    code: Code | None
    """The code of the refusal; None if the action is allowed."""
    message: str
    """The message that a client would get; empty if the action is allowed."""
    change: str
    """A change after which the answer would differ; empty if the action is allowed."""
    steps: list[Step]


async def explain(
    kinds: Kinds, rooms: Rooms, principal: Principal | None, name: str, *, publishing: bool
) -> Explanation:
    """Explain what would be answered if the principal subscribed to the channel, or published to it.

    It asks the same rules as a client, so that the explanation cannot differ from them. A checkpoint only if the store
    is asked about a room.

    Raises:
        RequestError: `UNAVAILABLE`; the store cannot read.
    """
    steps = [Step("caller", _described(principal))]
    try:
        channel = kinds.parse(name)
    except RequestError as refusal:
        steps.append(Step("channel", "the name is not one of a channel"))
        known = ", ".join(sorted(kind.name for kind in kinds))
        return _refused(refusal, f"Use a name that begins with one of: {known}.", steps)
    kind = channel.kind
    steps.append(Step("channel", f"{channel.text} is a channel of the kind {kind.name}"))
    if publishing:
        steps.append(Step("rule", f"may publish: {kind.publishers.value}"))
        if principal is not None and is_backend(principal):
            steps.append(Step("scope", "the caller is a backend, so the rule is not asked"))
    if not publishing or kind.publishers is Publishers.SUBSCRIBERS:
        steps.append(Step("rule", f"may subscribe: {kind.audience.value}"))
    try:
        if publishing:
            await check_publish(rooms, principal, channel)
        else:
            await check_subscribe(rooms, principal, channel)
    except RequestError as refusal:
        if refusal.code is Code.UNAVAILABLE:
            raise
        return _refused(refusal, _cure(refusal, channel, publishing=publishing), steps)
    steps.append(Step("result", "allowed"))
    return Explanation(True, None, "", "", steps)


def explain_token(refusal: RequestError) -> Explanation:
    """Explain that a token is not accepted, for the reason of this refusal."""
    change = "Get a fresh token from the backend that makes them, or print one with: relay token USER"
    return _refused(refusal, change, [Step("token", refusal.message)])


def _described(principal: Principal | None) -> str:
    if principal is None:
        return "a client that is not authenticated"
    kind = "an API key" if principal.key_id is not None else "a user"
    admin = ", an admin" if principal.is_admin else ""
    scopes = f", with the scopes {', '.join(sorted(principal.scopes))}" if principal.scopes else ""
    return f"{kind} of the id {principal.user_id}{admin}{scopes}"


def _refused(refusal: RequestError, change: str, steps: list[Step]) -> Explanation:
    result = Step("result", f"refused with {refusal.code.value}: {refusal.message}")
    return Explanation(False, refusal.code, refusal.message, change, [*steps, result])


def _cure(refusal: RequestError, channel: ChannelName, *, publishing: bool) -> str:
    if refusal.code is Code.UNAUTHORIZED:
        return "Authenticate with a token first."
    if publishing and channel.kind.publishers is Publishers.BACKENDS:
        return "Publish with an API key of the scope publish or admin, or with the token of an admin."
    if refusal.code is Code.NOT_FOUND:
        return f"Create the room {channel.id}, or add the user to it if it is private."
    match channel.kind.audience:
        case Audience.OWNER:
            return f"Use the token of the user {channel.id}, or of an admin."
        case Audience.ROOM:
            return f"Add the user to the room: POST /v1/chatrooms/{channel.id}/members."
        case _:
            return "Use a token that the server accepts."
