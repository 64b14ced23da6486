"""Explains step by step why a principal may subscribe to a channel or publish to it, or why not, and what would change it."""

from __future__ import annotations

import attrs

from relay.access.rights import Rights, asked_to_subscribe
from relay.access.rules import check_backend, check_publish, check_subscribe, check_without_rooms, is_backend
from relay.chat.rooms import Rooms
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName, Namespaces, PublishRule, SubscribeRule
from relay.model.principal import Principal
from relay.model.publication import Draft
from relay.model.subscription_proof import SubscriptionProof


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
    namespaces: Namespaces,
    rooms: Rooms,
    rights: Rights,
    principal: Principal | None,
    name: str,
    *,
    publishing: bool,
    proof: SubscriptionProof | None = None,
) -> Explanation:
    """Explain what would be answered if the principal subscribed to the channel, or published to it.

    It asks the same rules and backends as a client, so that the explanation cannot differ from them. A backend that
    decides on publications is asked for one with the data null. `proof` is a subscription token that comes with the
    request. A checkpoint only if the store or a backend is asked.

    Raises:
        RequestError: `UNAVAILABLE`; the store cannot read.
    """
    steps = [Step("caller", _described(principal))]
    if proof is not None:
        found = f"a subscription token for {proof.channel}: it comes with subscribe, and authenticates no connection"
        steps.append(Step("token", found))
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
        basis = await _basis(rooms, rights, principal, channel, proof, publishing=publishing)
    except RequestError as refusal:
        if refusal.code is Code.UNAVAILABLE and refusal.reason is None:
            raise
        if refusal.reason is RefusalReason.BACKEND_UNREACHABLE and refusal.__cause__ is not None:
            steps.append(Step("hook", f"no answer: {refusal.__cause__}"))
        return _refused(refusal, _cure(refusal, channel, publishing=publishing), steps)
    return Explanation(True, None, "", "", [*steps, Step("result", f"allowed, because {basis}")])


def explain_token(refusal: RequestError) -> Explanation:
    """Explain that a token is not accepted, for the reason of this refusal."""
    match refusal.reason:
        case RefusalReason.TOKEN_EXPIRED:
            change = "Get a fresh token from the backend that makes them, or print one with: relay token USER"
        case RefusalReason.GRANTS_INVALID:
            change = (
                "Mend the claim that the message names, in the backend that makes the tokens: relay docs namespaces"
            )
        case _:
            change = (
                "Sign the token with the secret or key of this server, and with the issuer and the audience of [auth]; "
                "relay token check shows what is in it, and relay token USER prints a good one."
            )
    return _refused(refusal, change, [Step("token", refusal.message)])


async def _basis(
    rooms: Rooms,
    rights: Rights,
    principal: Principal | None,
    channel: ChannelName,
    proof: SubscriptionProof | None,
    *,
    publishing: bool,
) -> str:
    """Return why the principal has the right, in words. Raises as the checks of `rules` and `Rights`."""
    if principal is not None and principal.key_id is not None:
        _check_key(principal, channel, publishing=publishing)
    if publishing and principal is not None and channel.namespace.publish_hook is not None:
        hook = await rights.check_publish(principal, channel)
        if hook is not None:
            await rights.allow_publication(hook, principal, Draft(channel, "", None, 0), None, explaining=True)
            return f"the backend of the hook {hook.name} said yes"
    try:
        basis = check_without_rooms(channel, principal, proof, publishing=publishing)
    except RequestError as refusal:
        name = None if publishing else asked_to_subscribe(principal, channel, proof, refusal)
        if name is None:
            raise
        await rights.check_subscribe(principal, channel, explaining=True)
        return f"the backend of the hook {name} said yes"
    if basis is not None:
        return basis.value
    await (check_publish if publishing else check_subscribe)(rooms, principal, channel)
    return "the room lets the caller in"


def _check_key(principal: Principal, channel: ChannelName, *, publishing: bool) -> None:
    """Raise unless an API key may act on a channel: rules and hooks are for users, and its scopes decide before them."""
    if publishing:
        check_backend(principal)
    elif not principal.is_admin and channel.namespace.subscribe is not SubscribeRule.ANYONE:
        raise RequestError(Code.FORBIDDEN, "This API key lacks the scope admin.")


def _rule_steps(principal: Principal | None, channel: ChannelName, *, publishing: bool) -> list[Step]:
    """Return the rules that apply to the channel, and the grants of the caller that they ask for."""
    namespace = channel.namespace
    steps = []
    hook = namespace.publish_hook if publishing else None
    if hook is not None:  # it stands in the place of the rule and of grants
        steps.append(Step("rule", f"clients that may publish: users that the hook {hook} allows"))
    elif publishing:
        steps.append(Step("rule", f"clients that may publish: {namespace.publish.value}"))
        if namespace.publish is PublishRule.SUBSCRIBERS and not namespace.built_in:
            found = "the connection must be subscribed at that moment, else it is refused with not_subscribed"
            steps.append(Step("connection", found))
    if publishing and principal is not None and is_backend(principal):
        asked = "rule" if hook is None else "hook"
        steps.append(Step("scope", f"the caller is a backend, so the {asked} is not asked"))
    if not publishing or (hook is None and namespace.publish is PublishRule.SUBSCRIBERS):
        steps.append(Step("rule", f"clients that may subscribe: {namespace.subscribe.value}"))
    if principal is not None and hook is None and not namespace.built_in:
        granted = principal.grants.publish if publishing else principal.grants.subscribe
        matches = "has" if granted.match(channel.text) else "has not"
        steps.append(Step("grants", f"the token {matches} a grant to {'publish' if publishing else 'subscribe'}"))
    if not publishing and namespace.subscribe_hook is not None:
        steps.append(
            Step("hook", f"the backend of the hook {namespace.subscribe_hook} decides if rule and grants say no")
        )
    if not publishing and not namespace.built_in:
        kept = "may be asked for" if namespace.presence else "is not kept, so asking for it is refused with no_presence"
        steps.append(Step("presence", f"{kept}: presence = {str(namespace.presence).lower()}"))
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


def _cure(refusal: RequestError, channel: ChannelName, *, publishing: bool) -> str:
    """Return what would change the answer, by the reason of the refusal."""
    hook = channel.namespace.publish_hook if publishing else channel.namespace.subscribe_hook
    section = f"[namespaces.{channel.namespace.name}]"
    match refusal.reason:
        case RefusalReason.NOT_AUTHENTICATED:
            return "Authenticate with a token first: relay token USER prints one."
        case RefusalReason.TOKEN_OTHER_USER:
            return "Sign the subscription token for the user of the connection: its claim sub must be that user's id."
        case RefusalReason.TOKEN_OTHER_CHANNEL:
            return f"Sign the subscription token for {channel.text}: its claim channel must be that name."
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
        case RefusalReason.BACKEND_REFUSED:
            return f"Change the answer of your backend, which [hooks.{hook}] names: the decision is its own."
        case RefusalReason.BACKEND_EXPIRED:
            return (
                f"Let your backend, which [hooks.{hook}] names, answer with an expire_at in the future: Unix seconds."
            )
        case RefusalReason.BACKEND_UNREACHABLE:
            return f"Start or mend your backend at the url in [hooks.{hook}], or raise its timeout there."
        case RefusalReason.BACKEND_BUSY:
            return f"Try again later; let the backend answer faster, or raise max_in_flight in [hooks.{hook}]."
        case RefusalReason.NOT_MEMBER:
            return f"Add the user to the room: POST /v1/chatrooms/{channel.id}/members."
        case RefusalReason.NOT_FOUND:
            return f"Create the room {channel.id}, or add the user to it if it is private."
        case None if refusal.code is Code.FORBIDDEN:
            return "Use the token of a user that may, or an API key with the scope admin."
        case _:
            return "Use a token that the server accepts."
