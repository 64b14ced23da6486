"""`/console/session`: a person signs in with a one-time link or an API key, sees the own rights, and signs out.

The browser keeps a cookie that no script reads. A request counts with it if it brings the proof of the session too: the
page learns the proof here, and a page of another site cannot.
"""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.admission.origins import OriginPolicy
from relay.api import audit
from relay.api.app import json_body, success
from relay.api.authentication import COOKIE, SECURE_COOKIE, caller_of, check_reader, operator_caller
from relay.api.console.place import check_place
from relay.api.local import is_secure, of_other_site
from relay.api.params import Params
from relay.auth.console_sessions import SESSION_LIFETIME, WRITE, proof_of
from relay.core import Core
from relay.ground.clock import iso
from relay.ground.errors import Code, RequestError, invalid_field
from relay.model.principal import Principal

PATH = "/console/session"
_OWN_ORIGIN = OriginPolicy(())
"""Allows the origin of this server alone."""


def blueprint(core: Core) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("console-session", __name__)

    @routes.post(PATH)
    async def sign_in() -> Response:
        _check(core)
        params, caller = Params(await json_body()), caller_of(core, request)
        link, key = params.optional("link"), params.optional("key")
        with core.limits.auth_failures.counted(caller.address):
            if link is not None:
                secret, principal = await core.auth.console.open_link(link)
            elif key is not None:
                secret, principal = await core.auth.console.open_key(key)
            else:
                raise invalid_field("key", "is required, or link")
        audit.record(principal, caller, "signed in to the console")
        response = success(_session_entry(principal, secret), 201)
        _set_cookie(core, response, secret, SESSION_LIFETIME)
        return response

    @routes.get(PATH)
    async def session() -> Response:
        _check(core)
        caller = operator_caller(core, request)
        if caller.session is None:  # every first visit begins so, and it is not a failure
            return success(None)
        with core.limits.auth_failures.counted(caller.address):
            principal = await core.auth.console.authenticate(caller.session, None)
        response = success(_session_entry(check_reader(principal), caller.session))
        response.headers["Cache-Control"] = "no-store"
        return response

    @routes.delete(PATH)
    async def sign_out() -> Response:
        _check(core)
        caller = operator_caller(core, request)
        if caller.session is not None:
            principal = await core.auth.console.authenticate(caller.session, caller.proof or "")
            await core.auth.console.end(caller.session)
            audit.record(principal, caller, "signed out of the console")
        response = success({})
        _set_cookie(core, response, "", 0.0)
        return response

    return routes


def _check(core: Core) -> None:
    """Raise unless the request may come from a page of this server, at a place that has the console."""
    check_place(core)
    origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
    own = origin is None or _OWN_ORIGIN.allows(origin.encode("latin-1"), host.encode("latin-1"))
    if not own or of_other_site(request):
        raise RequestError(Code.FORBIDDEN, "Pages of other sites may not sign in.")


def _session_entry(principal: Principal, secret: str) -> dict[str, object]:
    return {
        "user": principal.user_id,
        "acts": principal.is_admin or WRITE in principal.scopes,
        "admin": principal.is_admin,
        "endsAt": None if principal.expires_at is None else iso(principal.expires_at),
        "proof": proof_of(secret),
    }


def _set_cookie(core: Core, response: Response, value: str, lifetime: float) -> None:
    secure = is_secure(core, request)
    response.set_cookie(
        SECURE_COOKIE if secure else COOKIE,
        value,
        max_age=int(lifetime),
        path="/",
        secure=secure,
        httponly=True,
        samesite="Strict",
    )
    response.headers["Cache-Control"] = "no-store"
