"""The methods of the management API, with the names, parameters and results of Centrifugo's HTTP API.

They act on the connections of every dialect. Nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import trio

from relay.access.reading import MAX_PAGE
from relay.access.steering import MAX_NAMED_CHANNELS
from relay.api import audit
from relay.api.authentication import Caller, check_admin
from relay.api.params import Params
from relay.api.publish import scope_of
from relay.broker.signal import Signal
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import Code, Reason, RequestError, invalid_field
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Draft, Position, Published

MAX_HISTORY_BYTES = 1_048_576
"""Bytes of data in one answer about a history; the first publication comes in any case."""
MAX_READS = 16
"""Commands of one batch that read, so that its answer stays bounded."""
MAX_COMMANDS = 1000
"""Commands of one batch."""

_READS = frozenset({"presence", "history", "channels"})
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

Method = Callable[["Request", Params], Awaitable[dict[str, Any]]]


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
        return self.core.namespaces.parse(params.text("channel"))


def error_of(refusal: RequestError) -> dict[str, Any]:
    """Return an error as this API writes it."""
    return {"code": NUMBERS[refusal.code][0], "message": refusal.message}


async def call(request: Request, method: str, params: object) -> dict[str, Any]:
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


def _draft(request: Request, params: Mapping[str, Any], channel: object, size: int) -> Draft:
    tags = params.get("tags") or {}
    if not isinstance(tags, dict) or set(tags) - {"type"}:
        raise invalid_field("tags", "may have the tag type alone, which is the type of the publication")
    Params(params).refuse("b64data", "delta", "version", "version_epoch")
    item = {"channel": channel, "data": params.get("data")}
    if "type" in tags:
        item["type"] = tags["type"]
    if params.get("idempotency_key"):
        item["idempotencyKey"] = params["idempotency_key"]
    return request.core.publishing.draft(item, scope=scope_of(request.principal), size=size)


def _signal(request: Request, draft: Draft) -> dict[str, Any]:
    """Deliver a publication that is not kept, and return its result: it has no position."""
    if draft.prepare is not None:
        raise invalid_field("skip_history", "is not possible here: this publication is a record too")
    request.core.publishing.signal(Signal(draft.channel, draft.type, draft.data))
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


async def _publish(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    signal = Params(params).flag("skip_history")
    [result] = await _publish_all(
        request, [_draft(request, params, params.get("channel"), request.size)], signals=[signal]
    )
    if isinstance(result, RequestError):
        raise result
    return dict(result)


async def _broadcast(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    channels = Params(params).texts("channels")
    maximum = request.core.config.limits.max_publish_items
    if not channels or len(channels) > maximum:
        raise invalid_field("channels", f"must have 1 to {maximum} channels")
    signal = Params(params).flag("skip_history")
    drafts: list[Draft | RequestError] = []
    for channel in channels:
        try:
            drafts.append(_draft(request, params, channel, request.size))
        except RequestError as refusal:
            drafts.append(refusal)
    results = await _publish_all(request, drafts, signals=[signal] * len(drafts))
    return {"responses": [_reply("result", result) for result in results]}


async def _batch(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    commands = params.get("commands")
    maximum = min(MAX_COMMANDS, request.core.config.limits.max_publish_items)
    if not isinstance(commands, list) or len(commands) > maximum:
        raise invalid_field("commands", f"must be a list of at most {maximum} commands")
    if sum(bool(_READS & set(one)) for one in commands if isinstance(one, dict)) > MAX_READS:
        raise invalid_field("commands", f"may have {MAX_READS} of presence, history and channels at most")
    replies: list[dict[str, Any]] = []
    for first, command in enumerate(commands):
        if first >= len(replies):
            replies += await _publications(request, commands[first:]) or [await _command(request, command)]
    return {"replies": replies}


async def _publications(request: Request, commands: Sequence[Any]) -> list[dict[str, Any]]:
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


async def _command(request: Request, command: object) -> dict[str, Any]:
    try:
        if not isinstance(command, dict) or len(command) != 1:
            raise RequestError(Code.INVALID_REQUEST, "A command must be an object with one method.")
        [(method, params)] = command.items()
        if method == "batch":
            raise RequestError(Code.INVALID_REQUEST, "A batch cannot hold a batch.")
        check_right(request.principal, method)
        return {method: await call(request, method, params)}
    except RequestError as refusal:
        return {"error": error_of(refusal)}


def _reply(name: str, result: Any) -> dict[str, Any]:
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


async def _subscribe(request: Request, params: Params) -> dict[str, Any]:
    params.refuse("info", "b64info", "data", "b64data", "session", "override", "expire_at")
    user, client, channel = params.text("user"), params.optional("client"), request.channel(params)
    since = params.position("recover_since")
    request.audit("subscribe", user=user, client=client, channel=channel.text)
    await request.core.steering.subscribe(channel, user_id=user, connection_id=client, since=since)
    return {}


async def _unsubscribe(request: Request, params: Params) -> dict[str, Any]:
    params.refuse("session")
    user, client, channel = params.text("user"), params.optional("client"), request.channel(params)
    request.audit("unsubscribe", user=user, client=client, channel=channel.text)
    request.core.steering.unsubscribe(channel, user_id=user, connection_id=client)
    return {}


async def _disconnect(request: Request, params: Params) -> dict[str, Any]:
    params.refuse("session")
    user, client, spared = params.text("user"), params.optional("client"), params.texts("whitelist")
    code = params.object("disconnect").integer("code", _TERMINAL_CODES[0].start)
    reason = Reason.DISCONNECTED if any(code in codes for codes in _TERMINAL_CODES) else Reason.RECONNECT
    request.audit("disconnect", user=user, client=client, reason=reason.text)
    request.core.steering.disconnect(user_id=user, connection_id=client, spared=spared, reason=reason)
    return {}


async def _refresh(request: Request, params: Params) -> dict[str, Any]:
    params.refuse("session")
    user, client = params.text("user"), params.optional("client")
    expired, expire_at = params.flag("expired"), params.integer("expire_at", 0)
    if not expired and expire_at <= 0:
        raise invalid_field("expire_at", "must be a time in Unix seconds, unless expired is true")
    in_seconds = 0.0 if expired else max(expire_at - request.core.clock.now_ms() / 1000, 0.0)
    request.audit("refresh", user=user, client=client, seconds=round(in_seconds, 1))
    deadline = trio.current_time() + in_seconds
    request.core.steering.set_deadline(user_id=user, connection_id=client, deadline=deadline)
    return {}


# -- channels -------------------------------------------------------------------------------------------------------------


async def _presence(request: Request, params: Params) -> dict[str, Any]:
    present = await request.core.reading.connections(request.principal, request.channel(params))
    return {"presence": {one.connection_id: {"client": one.connection_id, "user": one.user_id} for one in present}}


async def _presence_stats(request: Request, params: Params) -> dict[str, Any]:
    clients, users = await request.core.reading.counts(request.principal, request.channel(params))
    return {"num_clients": clients, "num_users": users}


async def _history(request: Request, params: Params) -> dict[str, Any]:
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


async def _history_remove(request: Request, params: Params) -> dict[str, Any]:
    channel = request.channel(params)
    request.audit("history removed", channel=channel.text)
    await request.core.steering.remove_history(channel)
    return {}


async def _channels(request: Request, params: Params) -> dict[str, Any]:
    pattern = params.optional("pattern") or "*"
    found = await request.core.steering.channels(pattern, limit=MAX_NAMED_CHANNELS + 1)
    if len(found) > MAX_NAMED_CHANNELS:
        raise RequestError(Code.TOO_LARGE, f"Over {MAX_NAMED_CHANNELS} channels match. Use a narrower pattern.")
    return {"channels": {one.name: {"num_clients": one.subscribers} for one in found}}


async def _info(request: Request, params: Params) -> dict[str, Any]:
    return {"nodes": [node_of(request.core)]}


def node_of(core: Core) -> dict[str, Any]:
    """Return what this API tells about the server."""
    connections, steering = core.connections, core.steering
    return {
        "uid": connections.node,
        "name": "relay",
        "version": version("relay-server"),
        "num_clients": len(connections),
        "num_users": connections.user_count,
        "num_channels": steering.channel_count,
        "num_subs": steering.subscription_count,
        "uptime": int(connections.uptime),
    }


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
