"""Authenticates HTTP requests and checks the rights of their principals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import attrs
import trio
from quart import Request

from relay.access.rules import check_backend
from relay.admission.addresses import client_address, limit_key
from relay.auth.console_sessions import READ, WRITE
from relay.core import Core
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.store.api_keys import ApiKey
from relay.transports.request_head import RequestHead

COOKIE = "relay-console"
"""The cookie of a session of the console over plain HTTP, which only this machine itself may use."""
SECURE_COOKIE = "__Host-relay-console"
"""The cookie over HTTPS: browsers take a cookie of such a name from this host alone, and only with Secure."""


@attrs.frozen
class Caller:
    """The address and the credentials of a request."""

    address: str
    """The client's address, as the trusted proxies report it."""
    authorization: str = ""
    """The header, or empty."""
    api_key: str | None = None
    session: str | None = None
    """The cookie of a session of the console, of a request that may use one."""
    proof: str | None = None
    """The header X-Console-Proof, without which that cookie does not count."""

    @property
    def is_bearer(self) -> bool:
        """Whether the request has a token, beside which an API key does not count."""
        return self.authorization.partition(" ")[0].lower() == "bearer"


def caller_of(core: Core, request: Request) -> Caller:
    """Return the caller of one of Quart's requests."""
    headers = request.headers
    return Caller(address_of(core, request), headers.get("Authorization", ""), headers.get("X-API-Key"))


def operator_caller(core: Core, request: Request) -> Caller:
    """Return the caller of one of Quart's requests to a route that takes sessions of the console."""
    headers = request.headers
    secure = uses_https(core, peer_of(request), headers.get("X-Forwarded-Proto", ""))
    return attrs.evolve(
        caller_of(core, request),
        session=session_in(headers.get("Cookie", ""), secure=secure),
        proof=headers.get("X-Console-Proof"),
    )


def operator_caller_of_head(core: Core, head: RequestHead, peer: str) -> Caller:
    """Return the caller of a request as `operator_caller` does, on a connection from `peer`."""
    cookie, proof = head.first(b"cookie") or b"", head.first(b"x-console-proof")
    secure = uses_https(core, peer, (head.first(b"x-forwarded-proto") or b"").decode("latin-1"))
    return attrs.evolve(
        caller_of_head(core, head, peer),
        session=session_in(cookie.decode("latin-1"), secure=secure),
        proof=None if proof is None else proof.decode("latin-1"),
    )


def session_in(cookies: str, *, secure: bool) -> str | None:
    """Return the session of the console in a header Cookie; None if there is none.

    Over HTTPS (`secure`) the other cookie does not count: a page of another host below the same domain can set it.
    """
    found = dict(one.strip().partition("=")[::2] for one in cookies.split(";"))
    return found.get(SECURE_COOKIE if secure else COOKIE) or None


def uses_https(core: Core, peer: str, forwarded_proto: str) -> bool:
    """Return whether a client uses HTTPS: with this server, or with a trusted proxy, the peer, that says so."""
    if core.config.server.tls_cert is not None:
        return True
    trusted = bool(peer) and ip_address(peer) in core.trusted_proxies
    return trusted and forwarded_proto.strip().lower() == "https"


def caller_of_head(core: Core, head: RequestHead, peer: str) -> Caller:
    """Return the caller of a request on a connection from `peer`."""
    authorization, key = head.first(b"authorization"), head.first(b"x-api-key")
    return Caller(
        client_address(peer, head.get(b"x-forwarded-for"), core.trusted_proxies),
        "" if authorization is None else authorization.decode("latin-1"),
        None if key is None else key.decode("latin-1"),
    )


def address_of(core: Core, request: Request) -> str:
    """Return the address of a request's client, as the trusted proxies report it."""
    named = request.headers.getlist("X-Forwarded-For")
    return client_address(peer_of(request), [value.encode("latin-1") for value in named], core.trusted_proxies)


def peer_of(request: Request) -> str:
    """Return the address at the other end of a request's connection; empty if it has none."""
    return str((request.scope.get("client") or ("",))[0])


async def principal_of(core: Core, request: Request) -> Principal:
    """Return the principal of one of Quart's requests. A checkpoint and errors as `authenticate`."""
    return await authenticate(core, caller_of(core, request))


async def authenticate(core: Core, caller: Caller) -> Principal:
    """Return the principal of a caller: from the header Authorization, else from X-API-Key. May wait for the store.

    Raises:
        RequestError: `UNAUTHORIZED`; both are missing, or the first is invalid. `RATE_LIMITED` after too many
        failures.
    """
    with core.limits.auth_failures.counted(caller.address):
        scheme, _, token = caller.authorization.partition(" ")
        if caller.is_bearer:
            principal = await core.auth.tokens.authenticate(token.strip())
            await core.auth.users.seen(principal)
            return principal
        if scheme.lower() == "apikey":  # as clients of Centrifugo's HTTP API send a key
            return await core.auth.keys.authenticate(token.strip())
        if caller.api_key is not None:
            return await core.auth.keys.authenticate(caller.api_key)
        raise RequestError(Code.UNAUTHORIZED, "Send a token (Authorization: Bearer ...) or an API key (X-API-Key).")


async def user_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request that may act as a user: a token's user, or a key with scope `admin`.

    Raises:
        RequestError: as `principal_of`; `FORBIDDEN` for a key without that scope, `RATE_LIMITED` for too many requests.
    """
    principal = await principal_of(core, request)
    if principal.key_id is not None and not principal.is_admin:
        raise RequestError(Code.FORBIDDEN, "This API key lacks the scope admin.")
    if not principal.is_admin:
        core.limits.requests.spend(principal.user_id)
        core.limits.address_requests.spend(limit_key(address_of(core, request)))
    return principal


async def admin_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request: an admin, a key with scope `admin`, or a session of the console with that right.

    Raises:
        RequestError: as `authenticate`; `FORBIDDEN`.
    """
    return check_admin(await authenticate_operator(core, operator_caller(core, request)))


async def operator_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request that may act in the console: as `admin_of`, or with scope `console:write`."""
    return check_admin(await authenticate_operator(core, operator_caller(core, request)), WRITE)


async def reader_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request that may read in the console: as `operator_of`, or with scope `console`."""
    return check_reader(await authenticate_operator(core, operator_caller(core, request)))


async def authenticate_operator(core: Core, caller: Caller) -> Principal:
    """Return the principal of a caller: of its session of the console if it has one, else as `authenticate`."""
    session = caller.session
    if session is None or caller.authorization or caller.api_key is not None or core.config.console.enabled == "never":
        return await authenticate(core, caller)
    with core.limits.auth_failures.counted(caller.address):
        return await core.auth.console.authenticate(session, caller.proof or "")


def check_reader(principal: Principal) -> Principal:
    """Return the principal if it may read in the console. Raises as `check_admin`."""
    return check_admin(principal, READ, WRITE)


def check_admin(principal: Principal, *scopes: str) -> Principal:
    """Return the principal if it is an admin, or a key with scope `admin` or one of `scopes`.

    Raises:
        RequestError: `FORBIDDEN`.
    """
    if not principal.is_admin and not principal.scopes.intersection(scopes):
        named = " or ".join([*scopes, "admin"])
        raise RequestError(Code.FORBIDDEN, f"This needs the token of an admin, or an API key with scope {named}.")
    return principal


async def publisher_of(core: Core, caller: Caller) -> Principal:
    """Return the principal of a caller that may publish: an admin, or a key with scope `publish`.

    Raises:
        RequestError: as `authenticate`; `FORBIDDEN` for any other principal.
    """
    principal = await authenticate(core, caller)
    check_backend(principal)
    return principal


@contextmanager
def while_valid(core: Core, principal: Principal) -> Iterator[None]:
    """Cancel the block when the token expires, or the API key is revoked or loses a scope. For long requests.

    Raises:
        RequestError: `UNAUTHORIZED`; the block was cancelled so.
    """
    scope = trio.CancelScope(deadline=core.auth.deadline_of(principal))

    def changed(key: ApiKey | None) -> None:
        if key is None or not key.scopes >= principal.scopes:
            scope.cancel()

    with ExitStack() as stack:
        if principal.key_id is not None:
            stack.enter_context(core.auth.keys.watch(principal.key_id, changed))
        stack.enter_context(scope)
        yield
    if scope.cancelled_caught:
        raise RequestError(Code.UNAUTHORIZED, "The token has expired, or the API key was revoked.")
