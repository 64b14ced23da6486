"""`/v1/admin/...`: connections, channels, limits and API keys, for the console and the command line. Admins only."""

from __future__ import annotations

from typing import Any, cast

import attrs
import trio
from quart import Blueprint, Response, request

from relay.access.busiest import PERIOD
from relay.access.explaining import Explanation, explain, explain_token
from relay.access.steering import MAX_PAGE
from relay.api import audit
from relay.api.app import json_body, success
from relay.api.authentication import Caller, admin_of, caller_of
from relay.api.params import Params
from relay.auth.verifier import principal_of_key
from relay.core import Core
from relay.ground.clock import iso_ms
from relay.ground.errors import Code, Reason, RequestError, invalid_field
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.model.principal import Principal
from relay.sessions.connections import Peer
from relay.store.api_keys import SCOPES, ApiKey, Tier

PREFIX = "/v1/admin"
TIERS = ("free", "pro")


def blueprint(core: Core) -> Blueprint:
    """Return the routes. Each checks the right of the caller before it reads a parameter."""
    routes = Blueprint("admin", __name__, url_prefix=PREFIX)
    _add_views(routes, core)
    _add_changes(routes, core)
    _add_keys(routes, core)
    return routes


def _add_views(routes: Blueprint, core: Core) -> None:
    @routes.get("/connections")
    async def connections() -> Response:
        await admin_of(core, request)
        query, limit = _query()
        after = query.optional("cursor") or "0"
        if not (after.isascii() and after.isdigit() and len(after) < 16):
            raise invalid_field("cursor", "must be the cursor of the last page")
        name = query.optional("channel")
        found, more = core.steering.connections(
            after=int(after),
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
        await admin_of(core, request)
        query, limit = _query()
        after, pattern = query.optional("cursor") or "", query.optional("pattern") or "*"
        found = await core.steering.channels(pattern, after=after, limit=limit)
        cursor = found[-1].name if len(found) == limit else None
        return success({"channels": [attrs.asdict(one) for one in found], "cursor": cursor})

    @routes.get("/busiest")
    async def busiest() -> Response:
        await admin_of(core, request)
        _, limit = _query()
        found = await core.steering.busiest.find(limit)
        return success({"seconds": PERIOD, "channels": [attrs.asdict(one) for one in found]})

    @routes.get("/limits")
    async def limits() -> Response:
        await admin_of(core, request)
        places = {
            dialect: [{"used": one.count, "maximum": one.maximum} for one in counters]
            for dialect, counters in core.metrics.places.items()
        }
        return success({"limits": attrs.asdict(core.config.limits), "places": places})

    @routes.post("/why")
    async def why() -> Response:
        await admin_of(core, request)
        params = Params(await json_body())
        action = params.optional("action") or "subscribe"
        if action not in ("subscribe", "publish"):
            raise invalid_field("action", "must be subscribe or publish")
        channel = params.text("channel")
        try:
            principal = await _principal_asked_about(core, params)
        except RequestError as refusal:
            if refusal.code is not Code.UNAUTHORIZED:
                raise
            return success(_explanation_entry(explain_token(refusal)))
        explanation = await explain(core.namespaces, core.rooms, principal, channel, publishing=action == "publish")
        return success(_explanation_entry(explanation))


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/disconnect")
    async def disconnect() -> Response:
        principal, caller = await _admin(core)
        params = Params(await json_body())
        user, client = _target(params)
        spared, reconnect = params.texts("whitelist"), params.flag("reconnect")
        reason = Reason.RECONNECT if reconnect else Reason.DISCONNECTED
        audit.record(principal, caller, "disconnect", user=user, client=client, reason=reason.text)
        ended = core.steering.disconnect(user_id=user, connection_id=client, spared=spared, reason=reason)
        return success({"disconnected": ended})

    @routes.post("/unsubscribe")
    async def unsubscribe() -> Response:
        principal, caller = await _admin(core)
        params = Params(await json_body())
        (user, client), channel = _target(params), core.namespaces.parse(params.text("channel"))
        audit.record(principal, caller, "unsubscribe", user=user, client=client, channel=channel.text)
        return success({"unsubscribed": core.steering.unsubscribe(channel, user_id=user, connection_id=client)})


def _add_keys(routes: Blueprint, core: Core) -> None:
    @routes.get("/keys")
    async def keys() -> Response:
        await admin_of(core, request)
        query, limit = _query()
        found = await core.auth.keys.page(after=query.optional("cursor"), limit=limit)
        cursor = found[-1].id if len(found) == limit else None
        return success({"keys": [key_entry(key) for key in found], "cursor": cursor})

    @routes.post("/keys")
    async def create() -> Response:
        principal, caller = await _admin(core)
        params = Params(await json_body())
        user, scopes, tier = (
            params.text("user"),
            params.texts("scopes") or ["connect"],
            params.optional("tier") or "free",
        )
        if not user.isprintable() or not user.strip():
            raise invalid_field("user", f"must be 1 to {MAX_ID_CHARACTERS} printable characters")
        if not set(scopes) <= set(SCOPES):
            raise invalid_field("scopes", f"must be some of {', '.join(SCOPES)}")
        if tier not in TIERS:
            raise invalid_field("tier", f"must be one of {', '.join(TIERS)}")
        audit.record(principal, caller, "key created", user=user, scopes=",".join(sorted(set(scopes))), tier=tier)
        key, secret = await core.auth.keys.create(
            prefix=core.config.auth.key_prefix,
            mode="test" if params.flag("test") else "live",
            user_id=user,
            tier=cast(Tier, tier),
            scopes=scopes,
            now_ms=core.clock.now_ms(),
        )
        return success({**key_entry(key), "secret": secret}, 201)

    @routes.delete("/keys/<key_id>")
    async def revoke(key_id: str) -> Response:
        principal, caller = await _admin(core)
        audit.record(principal, caller, "key revoked", revoked=key_id[:MAX_ID_CHARACTERS])
        if not await core.auth.keys.revoke(key_id, core.clock.now_ms()):
            raise RequestError(Code.NOT_FOUND, "No key has this id.")
        return success({})


async def _admin(core: Core) -> tuple[Principal, Caller]:
    return await admin_of(core, request), caller_of(core, request)


def _query() -> tuple[Params, int]:
    """Return the query, and how many entries the page may have."""
    given = request.args.get("limit", str(MAX_PAGE))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MAX_PAGE):
        raise invalid_field("limit", f"must be 1 to {MAX_PAGE}")
    return Params(request.args), int(given)


def _target(params: Params) -> tuple[str | None, str | None]:
    user, client = params.optional("user"), params.optional("client")
    if user is None and client is None:
        raise invalid_field("user", "is required, or client, the id of a connection")
    return user, client


async def _principal_asked_about(core: Core, params: Params) -> Principal | None:
    """Return the principal of a token, of a key's id, or of a user id; None for a client that is not authenticated.

    Raises:
        RequestError: `UNAUTHORIZED`, the token is not accepted; `INVALID_REQUEST`, it is another user's, or no key is valid
            that has this id.
    """
    secret, user = params.long_text("token"), params.optional("user")
    if secret is not None:
        principal = await core.auth.tokens.authenticate(secret)
        if user not in (None, principal.user_id):
            raise invalid_field("token", f"is one of the user {principal.user_id}")
        return principal
    key_id = params.optional("key")
    if key_id is not None:
        key = await core.auth.keys.get(key_id)
        if key is None or key.revoked_at is not None:
            raise invalid_field("key", "is not the id of a key that is valid")
        return principal_of_key(key)
    return None if user is None else Principal(user)


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


def key_entry(key: ApiKey) -> dict[str, Any]:
    """Return what is told about one key: everything but its secret."""
    return {
        "id": key.id,
        "hint": key.hint,
        "userId": key.user_id,
        "tier": key.tier,
        "scopes": sorted(key.scopes),
        "createdAt": iso_ms(key.created_at),
        "revokedAt": None if key.revoked_at is None else iso_ms(key.revoked_at),
    }


def _explanation_entry(explanation: Explanation) -> dict[str, Any]:
    return {
        "allowed": explanation.allowed,
        "code": None if explanation.code is None else explanation.code.value,
        "message": explanation.message,
        "change": explanation.change,
        "steps": [attrs.asdict(step) for step in explanation.steps],
    }
