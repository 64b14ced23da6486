"""`/v1/admin/...`: connections, channels and limits, for the console and the command line. Operators only."""

from __future__ import annotations

from itertools import islice
from typing import Any

import attrs
import trio
from quart import Blueprint, Response, request

from relay.access.busiest import PERIOD
from relay.access.explaining import Explanation, explain, explain_token
from relay.api import audit
from relay.api.answers import decode_json
from relay.api.app import json_body, success
from relay.api.authentication import caller_of, operator_of, reader_of
from relay.api.params import Params, number_cursor, page_query
from relay.api.views import published
from relay.auth.verifier import principal_of_key
from relay.core import Core
from relay.ground import strictjson
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, Reason, RefusalReason, RequestError, invalid_field
from relay.model.principal import Principal
from relay.model.publication import Publication
from relay.model.subscription_token import SubscriptionToken
from relay.sessions.connections import Peer

PREFIX = "/v1/admin"
MAX_NAMED = 200
"""Channels that the answer about one connection names."""


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("admin", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_connection(routes, core)
    _add_changes(routes, core)
    _add_publish(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("/connections")
    async def connections() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        name = query.optional("channel")
        found, more = core.steering.connections(
            after=number_cursor(query),
            limit=limit,
            user_id=query.optional("user"),
            dialect=query.optional("dialect"),
            channel=None if name is None else core.namespaces.parse(name),
        )
        cursor = None if more is None else str(more)
        data = [connection_entry(core, peer) for peer in found]
        return success({"connections": data, "cursor": cursor, "total": len(core.connections)})

    @routes.get("/channels")
    async def channels() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        after, pattern = query.optional("cursor") or "", query.optional("pattern") or "*"
        found = await core.steering.channels(pattern, after=after, limit=limit)
        cursor = found[-1].name if len(found) == limit else None
        return success({"channels": [attrs.asdict(one) for one in found], "cursor": cursor})

    @routes.get("/busiest")
    async def busiest() -> Response:
        await reader_of(core, request)
        _, limit = page_query()
        found = await core.steering.busiest.find(limit)
        return success({"seconds": PERIOD, "channels": [attrs.asdict(one) for one in found]})

    @routes.get("/limits")
    async def limits() -> Response:
        await reader_of(core, request)
        places = {
            dialect: [{"used": one.count, "maximum": one.maximum} for one in counters]
            for dialect, counters in core.metrics.places.items()
        }
        return success({"limits": attrs.asdict(core.config.limits), "places": places})

    @routes.post("/why")
    async def why() -> Response:
        await reader_of(core, request)
        params = Params(await json_body())
        action = params.optional("action") or "subscribe"
        if action not in ("subscribe", "publish"):
            raise invalid_field("action", "must be subscribe or publish")
        channel = params.text("channel")
        try:
            principal, token = await _asked_about(core, params)
        except RequestError as refusal:
            if refusal.code is not Code.UNAUTHORIZED:
                raise
            return success(_explanation_entry(explain_token(refusal)))
        explanation = await explain(
            core.namespaces, core.rooms, core.rights, principal, channel, publishing=action == "publish", token=token
        )
        return success(_explanation_entry(explanation))


def _add_connection(routes: Blueprint, core: Core) -> None:
    @routes.get("/connections/<connection_id>")
    async def connection(connection_id: str) -> Response:
        await reader_of(core, request)
        peer = core.connections.get(connection_id)
        if peer is None:
            raise RequestError(Code.NOT_FOUND, "No connection has this id: it has ended, or is one of another node.")
        subscribed = () if peer.subscriber is None else peer.subscriber.subscriptions
        names = list(islice(subscribed, MAX_NAMED))
        return success({**connection_entry(core, peer), "channels": names})

    @routes.get("/history")
    async def history() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        channel = core.namespaces.parse(query.text("channel"))
        before = number_cursor(query)
        page = await core.reading.page(channel, limit=limit, before=before or None)
        head, found = page.head, page.publications
        cursor = str(found[-1].offset) if found and found[-1].offset > 1 else None
        shown = [history_entry(one) for one in found]
        return success({"publications": shown, "offset": head.offset, "epoch": head.epoch, "cursor": cursor})


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/disconnect")
    async def disconnect() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        user, client = _target(params)
        spared, reconnect = params.texts("whitelist"), params.flag("reconnect")
        reason = Reason.RECONNECT if reconnect else Reason.DISCONNECTED
        audit.record(principal, caller, "disconnect", user=user, client=client, reason=reason.text)
        ended = core.steering.disconnect(user_id=user, connection_id=client, spared=spared, reason=reason)
        return success({"disconnected": ended})

    @routes.post("/unsubscribe")
    async def unsubscribe() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        (user, client), channel = _target(params), core.namespaces.parse(params.text("channel"))
        audit.record(principal, caller, "unsubscribe", user=user, client=client, channel=channel.text)
        return success({"unsubscribed": core.steering.unsubscribe(channel, user_id=user, connection_id=client)})


def _add_publish(routes: Blueprint, core: Core) -> None:
    @routes.post("/publish")
    async def publish() -> Response:
        principal, caller = await operator_of(core, request), caller_of(core, request)
        body = await request.body
        item = decode_json(body, request.mimetype)
        draft = core.publishing.draft(item, scope=f"admin:{principal.user_id}", size=len(body), document=body)
        audit.record(principal, caller, "publish", channel=draft.channel.text, type=draft.type)
        [outcome] = await core.publishing.publish_many([draft])
        if isinstance(outcome, RequestError):
            raise outcome
        return success(published(draft.channel.text, outcome))


def _target(params: Params) -> tuple[str | None, str | None]:
    user, client = params.optional("user"), params.optional("client")
    if user is None and client is None:
        raise invalid_field("user", "is required, or client, the id of a connection")
    return user, client


async def _asked_about(core: Core, params: Params) -> tuple[Principal | None, SubscriptionToken | None]:
    """Return the principal of a token, of a key's id, or of a user id; None for a client that is not authenticated.

    The second is the token if it is a subscription token.

    Raises:
        RequestError: `UNAUTHORIZED`, the token is not accepted; `INVALID_REQUEST`, it is another user's, or no key is valid
            that has this id.
    """
    secret, user = params.long_text("token"), params.optional("user")
    if secret is not None:
        try:
            principal = await core.auth.tokens.authenticate(secret)
        except RequestError as refusal:
            if refusal.reason is not RefusalReason.WRONG_TOKEN:
                raise
            token = await core.auth.tokens.subscription(secret)
            name = token.user_id if user is None else user
            return None if name is None else Principal(name), token
        if user not in (None, principal.user_id):
            raise invalid_field("token", f"is one of the user {principal.user_id}")
        return principal, None
    key_id = params.optional("key")
    if key_id is not None:
        key = await core.auth.keys.get(key_id)
        if key is None or key.revoked_at is not None:
            raise invalid_field("key", "is not the id of a key that is valid")
        return principal_of_key(key), None
    return None if user is None else Principal(user), None


def connection_entry(core: Core, peer: Peer) -> dict[str, Any]:
    """Return what is told about one connection. `sentBytes` counts what the client's machine has acknowledged."""
    age_ms = (trio.current_time() - peer.opened_at) * 1000
    return {
        "id": core.connections.id_of(peer),
        "userId": peer.user_id,
        "dialect": peer.dialect,
        "address": peer.address,
        "since": iso_ms(core.clock.now_ms() - int(age_ms)),
        "subscriptions": 0 if peer.subscriber is None else len(peer.subscriber.subscriptions),
        "sentBytes": peer.sent_bytes,
        "waitingBytes": peer.waiting_bytes,
    }


def history_entry(publication: Publication) -> dict[str, Any]:
    """Return what is told about one publication of a channel."""
    return {
        "type": publication.type,
        "offset": publication.offset,
        "publishedAt": iso_ms(publication.published_ms),
        "data": strictjson.embedded(publication.json),
    }


def _explanation_entry(explanation: Explanation) -> dict[str, Any]:
    return {
        "allowed": explanation.allowed,
        "code": None if explanation.code is None else explanation.code.value,
        "message": explanation.message,
        "change": explanation.change,
        "steps": [attrs.asdict(step) for step in explanation.steps],
    }
