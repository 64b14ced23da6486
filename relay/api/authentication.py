"""Authenticates HTTP requests and checks the rights of their principals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import trio
from quart import Request

from relay.access.rules import check_backend
from relay.admission.addresses import client_address, limit_key
from relay.core import Core
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.store.api_keys import ApiKey


def address_of(core: Core, request: Request) -> str:
    """Return the address of a request's client, as the trusted proxies report it."""
    peer = (request.scope.get("client") or ("",))[0]
    named = request.headers.getlist("X-Forwarded-For")
    return client_address(peer, [value.encode("latin-1") for value in named], core.trusted_proxies)


async def principal_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request: from a Bearer token, else from an API key. May wait for the store.

    Raises:
        RequestError: `UNAUTHORIZED`; both are missing, or the first is invalid. `RATE_LIMITED` after too many
        failures.
    """
    with core.limits.auth_failures.counted(address_of(core, request)):
        return await _principal_of(core, request)


async def _principal_of(core: Core, request: Request) -> Principal:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        principal = await core.auth.tokens.authenticate(token.strip())
        await core.auth.users.seen(principal)
        return principal
    key = request.headers.get("X-API-Key")
    if key is not None:
        return await core.auth.keys.authenticate(key)
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
    """Return the principal of a request: an admin, or a key with scope `admin`. Raises as `user_of`."""
    principal = await principal_of(core, request)
    if not principal.is_admin:
        raise RequestError(Code.FORBIDDEN, "This needs the token of an admin, or an API key with scope admin.")
    return principal


async def publisher_of(core: Core, request: Request) -> Principal:
    """Return the principal of a request that may publish: an admin, or a key with scope `publish`.

    Raises as `user_of`.
    """
    principal = await principal_of(core, request)
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
