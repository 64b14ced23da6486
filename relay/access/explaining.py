"""Explains step by step why a principal may subscribe to a channel or publish to it, or why not, and what would change it."""

from __future__ import annotations

import attrs

from relay.access.rules import check_publish, check_subscribe, check_without_rooms, is_backend
from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName, Namespaces, PublishRule
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
    namespaces: Namespaces, rooms: Rooms, principal: Principal | None, name: str, *, publishing: bool
) -> Explanation:
    """Explain what would be answered if the principal subscribed to the channel, or published to it.

    It asks the same rules as a client, so that the explanation cannot differ from them. A checkpoint only if the store
    is asked about a room.

    Raises:
        RequestError: `UNAVAILABLE`; the store cannot read.
    """
    steps = [Step("caller", _described(principal))]
    try:
        channel = namespaces.parse(name)
    except RequestError as refusal:
        steps.append(Step("channel", "the name is not one of a channel"))
        known = ", ".join(sorted(namespace.name for namespace in namespaces))
        return _refused(refusal, f"Use a name that begins with one of: {known}.", steps)
    namespace = channel.namespace
    origin = "built in" if namespace.built_in else "configured"
    steps.append(Step("namespace", f"{channel.text} belongs to {namespace.name}, which is {origin}"))
    steps += _rule_steps(principal, channel, publishing=publishing)
    try:
        basis = check_without_rooms(channel, principal, None, publishing=publishing)
        if basis is None:
            check = check_publish if publishing else check_subscribe
            await check(rooms, principal, channel)
    except RequestError as refusal:
        if refusal.code is Code.UNAVAILABLE:
            raise
        return _refused(refusal, _cure(refusal, channel), steps)
    reason = "the room lets the caller in" if basis is None else basis.value
    return Explanation(True, None, "", "", [*steps, Step("result", f"allowed, because {reason}")])


def explain_token(refusal: RequestError) -> Explanation:
    """Explain that a token is not accepted, for the reason of this refusal."""
    change = "Get a fresh token from the backend that makes them, or print one with: relay token USER"
    return _refused(refusal, change, [Step("token", refusal.message)])


def _rule_steps(principal: Principal | None, channel: ChannelName, *, publishing: bool) -> list[Step]:
    """Return the rules that apply to the channel, and the grants of the caller that they ask for."""
    namespace = channel.namespace
    steps = []
    if publishing:
        steps.append(Step("rule", f"clients that may publish: {namespace.publish.value}"))
        if principal is not None and is_backend(principal):
            steps.append(Step("scope", "the caller is a backend, so the rule is not asked"))
    if not publishing or namespace.publish is PublishRule.SUBSCRIBERS:
        steps.append(Step("rule", f"clients that may subscribe: {namespace.subscribe.value}"))
    if principal is not None and not namespace.built_in:
        granted = principal.grants.publish if publishing else principal.grants.subscribe
        matches = "has" if granted.match(channel.text) else "has not"
        steps.append(Step("grants", f"the token {matches} a grant to {'publish' if publishing else 'subscribe'}"))
    return steps


def _described(principal: Principal | None) -> str:
    if principal is None:
        return "a client that is not authenticated"
    sort = "an API key" if principal.key_id is not None else "a user"
    admin = ", an admin" if principal.is_admin else ""
    scopes = f", with the scopes {', '.join(sorted(principal.scopes))}" if principal.scopes else ""
    return f"{sort} of the id {principal.user_id}{admin}{scopes}"


def _refused(refusal: RequestError, change: str, steps: list[Step]) -> Explanation:
    reason = "" if refusal.reason is None else f" ({refusal.reason.value})"
    result = Step("result", f"refused with {refusal.code.value}{reason}: {refusal.message}")
    return Explanation(False, refusal.code, refusal.message, change, [*steps, result])


def _cure(refusal: RequestError, channel: ChannelName) -> str:
    """Return what would change the answer, by the reason of the refusal."""
    section = f"[namespaces.{channel.namespace.name}]"
    match refusal.reason:
        case RefusalReason.NOT_AUTHENTICATED:
            return "Authenticate with a token first."
        case RefusalReason.PUBLISH_NOT_ALLOWED:
            return "Publish with an API key of the scope publish or admin, or with the token of an admin."
        case RefusalReason.CLOSED:
            return f"Use the token of an admin, or change subscribe in {section}."
        case RefusalReason.NO_GRANT:
            return (
                f"Mint a token with a grant for {channel.text} (relay token --help), or change the rule in {section}."
            )
        case RefusalReason.NOT_SUBSCRIBED:
            return f"Subscribe to {channel.text} on the same connection first."
        case RefusalReason.NOT_OWNER if channel.namespace.built_in:
            return f"Use the token of the user {channel.id}, or of an admin."
        case RefusalReason.NOT_OWNER:
            return f"Use the token of the channel's owner, or mint one with a grant for {channel.text}."
        case RefusalReason.NOT_MEMBER:
            return f"Add the user to the room: POST /v1/chatrooms/{channel.id}/members."
        case RefusalReason.NOT_FOUND:
            return f"Create the room {channel.id}, or add the user to it if it is private."
        case _:
            return "Use a token that the server accepts."
