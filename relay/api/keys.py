"""`/v1/admin/keys`: API keys, listed without their secrets, created, moved to a tier and revoked."""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.api import audit
from relay.api.admin import PREFIX
from relay.api.admin_views import KeysView, NewKeyView, NothingView, key_entry
from relay.api.app import json_body, success
from relay.api.authentication import admin_of, caller_of, reader_of
from relay.api.operation import ADMIN, CONSOLE_READER, describe
from relay.api.params import FLAG, NEW_USER, PAGE, TEXTS, Params, page_query
from relay.core import Core
from relay.ground.errors import Code, RequestError, invalid_field
from relay.ground.schema import Param
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.store.api_keys import SCOPES, TIERS, Tier


def blueprint(core: Core) -> Blueprint:
    """Return the routes. A reader of the console sees keys; only an admin changes them, because keys give rights."""
    routes = Blueprint("keys", __name__, url_prefix=PREFIX)

    @routes.get("/keys")
    @describe("List the API keys.", CONSOLE_READER, query=PAGE, answer=KeysView)
    async def keys() -> Response:
        await reader_of(core, request)
        query, limit = page_query()
        found = await core.auth.keys.page(after=query.optional("cursor"), limit=limit)
        cursor = found[-1].id if len(found) == limit else None
        return success({"keys": [key_entry(key) for key in found], "cursor": cursor})

    _add_changes(routes, core)
    return routes


def _add_changes(routes: Blueprint, core: Core) -> None:
    @routes.post("/keys")
    @describe(
        "Create an API key.",
        ADMIN,
        body={
            "user": NEW_USER,
            "scopes": Param({**TEXTS.schema, "items": {"enum": list(SCOPES)}}),
            "tier": Param({"enum": [*TIERS, "", None]}),
            "test": FLAG,
        },
        answer=NewKeyView,
        status=201,
    )
    async def create_key() -> Response:
        principal, caller = await admin_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        user, scopes = params.new_user("user"), params.texts("scopes") or ["connect"]
        tier = _tier(params.optional("tier") or "free")
        if not set(scopes) <= set(SCOPES):
            raise invalid_field("scopes", f"must be some of {', '.join(SCOPES)}")
        audit.record(principal, caller, "key created", user=user, scopes=",".join(sorted(set(scopes))), tier=tier)
        key, secret = await core.auth.keys.create(
            prefix=core.config.auth.key_prefix,
            mode="test" if params.flag("test") else "live",
            user_id=user,
            tier=tier,
            scopes=scopes,
            now_ms=core.clock.now_ms(),
        )
        return success({**key_entry(key), "secret": secret}, 201)

    @routes.delete("/keys/<key_id>")
    @describe("Revoke an API key.", ADMIN, answer=NothingView, errors=[Code.NOT_FOUND])
    async def revoke_key(key_id: str) -> Response:
        principal, caller = await admin_of(core, request), caller_of(core, request)
        audit.record(principal, caller, "key revoked", revoked=key_id[:MAX_ID_CHARACTERS])
        if not await core.auth.keys.revoke(key_id, core.clock.now_ms()):
            raise _unknown()
        return success({})

    @routes.post("/keys/<key_id>/tier")
    @describe(
        "Move an API key to another tier.",
        ADMIN,
        body={"tier": Param({"enum": list(TIERS)}, required=True)},
        answer=NothingView,
        errors=[Code.NOT_FOUND],
    )
    async def move_key(key_id: str) -> Response:
        principal, caller = await admin_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        tier = _tier(params.text("tier"))
        audit.record(principal, caller, "key moved", moved=key_id[:MAX_ID_CHARACTERS], tier=tier)
        if not await core.auth.keys.set_tier(key_id, tier):
            raise _unknown()
        return success({})


def _tier(given: str) -> Tier:
    if given not in TIERS:
        raise invalid_field("tier", f"must be one of {', '.join(TIERS)}")
    return given


def _unknown() -> RequestError:
    return RequestError(Code.NOT_FOUND, "No key has this id.")
