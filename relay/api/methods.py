"""The methods of the management API, with the names, parameters and results of Centrifugo's HTTP API.

They act on the connections of every dialect. Nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast, get_type_hints

import trio

from relay.access.publishing import MAX_KEY_CHARACTERS
from relay.access.reading import MAX_PAGE
from relay.api import audit
from relay.api.authentication import Caller, check_admin
from relay.api.batch_bounds import checked_commands
from relay.api.method_views import (
    BatchReply,
    BatchResult,
    BroadcastResult,
    ChannelsResult,
    HistoryResult,
    InfoResult,
    MethodError,
    NodesResult,
    NoResult,
    PresenceResult,
    PresenceStatsResult,
    PublishResult,
    node_view,
)
from relay.api.params import Params
from relay.api.publish import scope_of
from relay.api.views import with_unanswered
from relay.broker.signal import Signal
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import Code, Reason, RequestError, invalid_field
from relay.model.namespaces import MAX_CHANNEL_CHARACTERS, TYPE_RULE, ChannelName, is_type
from relay.model.principal import Principal
from relay.model.publication import Draft, Position, Published

MAX_HISTORY_BYTES = 1_048_576
"""Bytes of data in one answer about a history; the first publication comes in any case."""

_TERMINAL_CODES = (range(3500, 4000), range(4500, 5000))
"""The codes of `disconnect` after which a client of that protocol does not reconnect."""

NUMBERS = {
    Code.INVALID_REQUEST: (107, 400),
    Code.UNAUTHORIZED: (101, 401),
    Code.FORBIDDEN: (103, 403),
    Code.NOT_FOUND: (102, 404),
    Code.METHOD_NOT_ALLOWED: (104, 404),
    Code.CONFLICT: (112, 416),
    Code.TOO_LARGE: (106, 413),
    Code.UNSUPPORTED_MEDIA_TYPE: (107, 415),
    Code.RATE_LIMITED: (111, 429),
    Code.UNKNOWN_CHANNEL: (102, 404),
    Code.TOO_MANY_SUBSCRIPTIONS: (106, 400),
    Code.UNAVAILABLE: (100, 503),
    Code.INTERNAL_ERROR: (100, 500),
}
"""The number of each error, as Centrifugo numbers errors, and its status for a client that asks for one."""

Method = Callable[["Request", Params], Awaitable[Mapping[str, Any]]]


class Request:
    """One request: the core, and its caller, whose right to the method was checked."""

    __slots__ = ("caller", "core", "principal", "size")

    def __init__(self, core: Core, principal: Principal, caller: Caller, size: int) -> None:
        """`size` is in bytes, of the whole body."""
        self.core = core
        self.principal = principal
        self.caller = caller
        self.size = size

    def audit(self, action: str, **target: object) -> None:
        """Write the line of a change. See `audit.record`."""
        audit.record(self.principal, self.caller, action, **target)

    def channel(self, params: Params) -> ChannelName:
        """Return the channel that the parameters name. Raises RequestError."""
        return self.core.namespaces.parse(params.text("channel", MAX_CHANNEL_CHARACTERS))


def error_of(refusal: RequestError) -> MethodError:
    """Return an error as this API writes it."""
    return {"code": NUMBERS[refusal.code][0], "message": refusal.message}


async def call(request: Request, method: str, params: object) -> Mapping[str, Any]:
    """Call a method and return its result. Most are a checkpoint.

    Raises:
        RequestError: the method refused, or a parameter is wrong.
    """
    if not isinstance(params, dict):
        raise RequestError(Code.INVALID_REQUEST, "The parameters must be a JSON object.")
    if method == "publish":
        return await _publish(request, params)
    if method == "broadcast":
        return await _broadcast(request, params)
    if method == "batch":
        return await _batch(request, params)
    found = METHODS.get(method)
    if found is None:
        raise RequestError(Code.METHOD_NOT_ALLOWED, "There is no such method.")
    return await found(request, Params(params))


# -- publishing -----------------------------------------------------------------------------------------------------------


def _check_item(params: Mapping[str, Any]) -> None:
    """Raise RequestError unless a publication has data, and nothing that Relay does not support."""
    tags, key = params.get("tags"), params.get("idempotency_key")
    if tags is not None and (not isinstance(tags, dict) or set(tags) - {"type"}):
        raise invalid_field("tags", "may have the tag type alone, which is the type of the publication")
    if tags and tags["type"] is not None and not (isinstance(tags["type"], str) and is_type(tags["type"])):
        raise invalid_field("tags", f"must have as type {TYPE_RULE}")
    if key is not None and not (isinstance(key, str) and len(key) <= MAX_KEY_CHARACTERS):
        raise invalid_field("idempotency_key", f"must be a text of at most {MAX_KEY_CHARACTERS} characters")
    Params(params).refuse("b64data", "delta", "version", "version_epoch")
    if "data" not in params:
        raise invalid_field("data", "is required")


def _draft(request: Request, params: Mapping[str, Any], channel: object, size: int) -> Draft:
    _check_item(params)
    item = {"channel": channel, "data": params["data"]}
    tags, key = params.get("tags") or {}, params.get("idempotency_key")
    if "type" in tags:
        item["type"] = tags["type"]
    if key:
        item["idempotencyKey"] = key
    return request.core.publishing.draft(item, scope=scope_of(request.principal), size=size)


def _signal(request: Request, draft: Draft) -> dict[str, Any]:
    """Deliver a publication that is not kept, and return its result: it has no position."""
    if draft.prepare is not None:
        raise invalid_field("skip_history", "is not possible here: this publication is a record too")
    request.core.publishing.signal(Signal(draft.channel, draft.type, draft.data, published_ms=draft.published_ms))
    return {}


async def _publish_all(
    request: Request, drafts: Sequence[Draft | RequestError], *, signals: Sequence[bool]
) -> list[Any]:
    """Publish drafts, and return the result or the refusal of each."""
    kept = [one for one, signal in zip(drafts, signals, strict=True) if isinstance(one, Draft) and not signal]
    outcomes = iter(await request.core.publishing.publish_many(kept) if kept else ())
    results: list[Any] = []
    for one, signal in zip(drafts, signals, strict=True):
        result: Any = one
        if isinstance(one, Draft):
            try:
                result = _signal(request, one) if signal else next(outcomes)
            except RequestError as refusal:
                result = refusal
        if isinstance(result, Published):
            result = {"offset": result.position.offset, "epoch": result.position.epoch}
        results.append(result)
    return results


async def _publish(request: Request, params: Mapping[str, Any]) -> PublishResult:
    signal = Params(params).flag("skip_history")
    [result] = await _publish_all(
        request, [_draft(request, params, params.get("channel"), request.size)], signals=[signal]
    )
    if isinstance(result, RequestError):
        raise result
    return cast(PublishResult, result)


async def _broadcast(request: Request, params: Mapping[str, Any]) -> BroadcastResult:
    channels = Params(params).texts("channels")
    maximum = request.core.config.limits.max_publish_items
    if not channels or len(channels) > maximum:
        raise invalid_field("channels", f"must have 1 to {maximum} channels")
    signal = Params(params).flag("skip_history")
    _check_item(params)
    # The other channels, and the other commands of a batch, do not belong to a publication.
    size = len(strictjson.dumps({name: value for name, value in params.items() if name != "channels"}))
    drafts: list[Draft | RequestError] = []
    for channel in channels:
        try:
            drafts.append(_draft(request, params, channel, size))
        except RequestError as refusal:
            drafts.append(refusal)
    results = await _publish_all(request, drafts, signals=[signal] * len(drafts))
    return {"responses": [_reply("result", result) for result in results]}


async def _batch(request: Request, params: Mapping[str, Any]) -> BatchResult:
    commands = checked_commands(params.get("commands"), request.core.config.limits.max_publish_items)
    replies: list[BatchReply] = []
    for first, command in enumerate(commands):
        if first >= len(replies):
            replies += await _publications(request, commands[first:]) or [await _command(request, command)]
    return {"replies": replies}


async def _publications(request: Request, commands: Sequence[Any]) -> list[BatchReply]:
    """Publish the commands up to the first that is not `publish`, in one transaction, and return their replies."""
    drafts: list[Draft | RequestError] = []
    signals: list[bool] = []
    for command in commands:
        params = command.get("publish") if isinstance(command, dict) and len(command) == 1 else None
        if not isinstance(params, dict):
            break
        try:
            signals.append(Params(params).flag("skip_history"))
            drafts.append(_draft(request, params, params.get("channel"), len(strictjson.dumps(params))))
        except RequestError as refusal:
            drafts.append(refusal)
            signals[len(drafts) - 1 :] = [False]
        if len(drafts) % 100 == 0:
            await trio.lowlevel.checkpoint()
    return [_reply("publish", result) for result in await _publish_all(request, drafts, signals=signals)]


async def _command(request: Request, command: object) -> BatchReply:
    try:
        if not isinstance(command, dict) or len(command) != 1:
            raise RequestError(Code.INVALID_REQUEST, "A command must be an object with one method.")
        [(method, params)] = command.items()
        if method == "batch":
            raise RequestError(Code.INVALID_REQUEST, "A batch cannot hold a batch.")
        check_right(request.principal, method)
        return cast(BatchReply, {method: await call(request, method, params)})
    except RequestError as refusal:
        return {"error": error_of(refusal)}


def _reply(name: str, result: Any) -> Any:
    return {"error": error_of(result)} if isinstance(result, RequestError) else {name: result}


def check_right(principal: Principal, method: str) -> None:
    """Raise unless the principal may call a method. A backend may publish, an admin may call all of them.

    Raises:
        RequestError: `FORBIDDEN`. It does not tell whether the method exists.
    """
    publishes = method in ("publish", "broadcast", "batch") and "publish" in principal.scopes
    if not publishes:
        check_admin(principal)


# -- connections ----------------------------------------------------------------------------------------------------------


async def _subscribe(request: Request, params: Params) -> NodesResult:
    params.refuse("info", "b64info", "data", "b64data", "session", "override", "expire_at")
    user, client, channel = params.text("user"), params.optional("client"), request.channel(params)
    since = params.position("recover_since")
    request.audit("subscribe", user=user, client=client, channel=channel.text)
    _, unanswered = await request.core.all_nodes.subscribe(channel, user_id=user, connection_id=client, since=since)
    return with_unanswered(NodesResult(), unanswered)


async def _unsubscribe(request: Request, params: Params) -> NodesResult:
    params.refuse("session")
    user, client, channel = params.text("user"), params.optional("client"), request.channel(params)
    request.audit("unsubscribe", user=user, client=client, channel=channel.text)
    _, unanswered = await request.core.all_nodes.unsubscribe(channel, user_id=user, connection_id=client)
    return with_unanswered(NodesResult(), unanswered)


async def _disconnect(request: Request, params: Params) -> NodesResult:
    params.refuse("session")
    user, client, spared = params.text("user"), params.optional("client"), params.texts("whitelist")
    code = params.object("disconnect").integer("code", _TERMINAL_CODES[0].start)
    reason = Reason.DISCONNECTED if any(code in codes for codes in _TERMINAL_CODES) else Reason.RECONNECT
    request.audit("disconnect", user=user, client=client, reason=reason.text)
    _, unanswered = await request.core.all_nodes.disconnect(
        user_id=user, connection_id=client, spared=spared, reason=reason
    )
    return with_unanswered(NodesResult(), unanswered)


async def _refresh(request: Request, params: Params) -> NodesResult:
    params.refuse("session")
    user, client = params.text("user"), params.optional("client")
    expired, expire_at = params.flag("expired"), params.integer("expire_at", 0)
    if not expired and expire_at <= 0:
        raise invalid_field("expire_at", "must be a time in Unix seconds, unless expired is true")
    in_seconds = 0.0 if expired else max(expire_at - request.core.clock.now_ms() / 1000, 0.0)
    request.audit("refresh", user=user, client=client, seconds=round(in_seconds, 1))
    _, unanswered = await request.core.all_nodes.set_deadline(user_id=user, connection_id=client, in_seconds=in_seconds)
    return with_unanswered(NodesResult(), unanswered)


# -- channels -------------------------------------------------------------------------------------------------------------


async def _presence(request: Request, params: Params) -> PresenceResult:
    found, unanswered = await request.core.all_nodes.present(request.principal, request.channel(params))
    present: PresenceResult = {
        "presence": {one.connection_id: {"client": one.connection_id, "user": one.user_id} for one in found}
    }
    return with_unanswered(present, unanswered)


async def _presence_stats(request: Request, params: Params) -> PresenceStatsResult:
    clients, users, unanswered = await request.core.all_nodes.stats(request.principal, request.channel(params))
    stats: PresenceStatsResult = {"num_clients": clients, "num_users": users}
    return with_unanswered(stats, unanswered)


async def _history(request: Request, params: Params) -> HistoryResult:
    channel, limit = request.channel(params), params.integer("limit", 0)
    since, reverse = params.position("since"), params.flag("reverse")
    # Centrifugo returns the oldest first, unless `reverse` is set; then it returns those before a position.
    page = await request.core.reading.history(
        request.principal,
        channel,
        limit=MAX_PAGE if limit < 0 else limit,
        before=since.offset if reverse and since is not None else None,
        since=None if reverse else since or Position(0, ""),
        max_bytes=MAX_HISTORY_BYTES,
    )
    if since is not None and since.epoch not in ("", page.head.epoch):
        raise RequestError(Code.CONFLICT, "The epoch of this position has ended.")
    # If something is missing after a position, the page begins with the first publication that is kept.
    after = 0 if reverse or since is None else since.offset
    return {
        "publications": [
            {"data": one.data, "offset": one.offset, "tags": {"type": one.type}}
            for one in page.publications
            if one.offset > after
        ],
        "offset": page.head.offset,
        "epoch": page.head.epoch,
    }


async def _history_remove(request: Request, params: Params) -> NoResult:
    channel = request.channel(params)
    request.audit("history removed", channel=channel.text)
    await request.core.this_node.remove_history(channel)
    return {}


async def _channels(request: Request, params: Params) -> ChannelsResult:
    pattern = params.optional("pattern", MAX_CHANNEL_CHARACTERS) or "*"
    found, unanswered = await request.core.all_nodes.all_channels(pattern)
    channels: ChannelsResult = {"channels": {one.name: {"num_clients": one.subscribers} for one in found}}
    return with_unanswered(channels, unanswered)


async def _info(request: Request, params: Params) -> InfoResult:
    found, unanswered = await request.core.all_nodes.info()
    info: InfoResult = {"nodes": [node_view(one) for one in found]}
    return with_unanswered(info, unanswered)


METHODS: Mapping[str, Method] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "disconnect": _disconnect,
    "refresh": _refresh,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "history_remove": _history_remove,
    "channels": _channels,
    "info": _info,
}
"""Every method but `publish`, `broadcast` and `batch`."""
NAMES = ("publish", "broadcast", "batch", *METHODS)
"""Every method."""
RESULTS: Mapping[str, Any] = {
    name: get_type_hints(function)["return"]
    for name, function in {"publish": _publish, "broadcast": _broadcast, "batch": _batch, **METHODS}.items()
}
"""The type of the result of each method."""
