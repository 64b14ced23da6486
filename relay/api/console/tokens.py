"""`POST /v1/admin/token`: a short-lived token of a test user, for the page `Try it`. Admins only."""

from __future__ import annotations

from typing import TypedDict

from quart import Blueprint, Response, request

from relay.api import audit
from relay.api.admin import PREFIX
from relay.api.app import json_body, success
from relay.api.authentication import admin_of, caller_of
from relay.api.operation import ADMIN, describe
from relay.api.params import NEW_USER, Params
from relay.auth.verifier import mint
from relay.core import Core
from relay.ground.errors import Code, RequestError

TOKEN_LIFETIME = 600.0
"""Seconds: long enough to try something, too short to be put into a program."""


class TestTokenView(TypedDict):
    """A token of a test user, and its lifetime in seconds."""

    token: str
    seconds: int


def blueprint(core: Core, secret: str | None) -> Blueprint:
    """Return the route. `secret` signs tokens; None: tokens come from another issuer alone."""
    routes = Blueprint("token", __name__, url_prefix=PREFIX)
    auth = core.config.auth

    @routes.post("/token")
    @describe(
        "Make a token of a test user.",
        ADMIN,
        body={"user": NEW_USER},
        answer=TestTokenView,
        status=201,
        errors=[Code.CONFLICT],
    )
    async def token() -> Response:
        principal, caller = await admin_of(core, request), caller_of(core, request)
        params = Params(await json_body())
        user = params.new_user("user")
        if secret is None or "HS256" not in auth.jwt_algorithms:
            raise RequestError(
                Code.CONFLICT, "This server signs no tokens. Get one from the issuer that its configuration names."
            )
        audit.record(principal, caller, "test token made", user=user)
        signed = mint(
            secret,
            user_id=user,
            now=core.clock.now(),
            expires_in=TOKEN_LIFETIME,
            issuer=auth.issuer,
            audience=auth.audience,
        )
        return success({"token": signed, "seconds": int(TOKEN_LIFETIME)}, 201)

    return routes
