"""Decides from where the console may be used: from this machine, or over HTTPS if the configuration says so."""

from __future__ import annotations

from quart import request

from relay.api.answers import nothing_here
from relay.api.local import is_local, is_secure
from relay.core import Core
from relay.ground.errors import Code, RequestError


def check_place(core: Core) -> None:
    """Raise unless the client of the present request may use the console from where it is.

    Raises:
        RequestError: `NOT_FOUND`, the console is not for this client; `FORBIDDEN`, it needs HTTPS.
    """
    shown = core.config.console.enabled
    if shown != "never" and is_local(core, request):
        return
    if shown != "always":
        raise nothing_here()
    if not is_secure(core, request):
        raise RequestError(
            Code.FORBIDDEN,
            "The console needs HTTPS: use TLS, or a trusted reverse proxy that sends X-Forwarded-Proto: https.",
        )


def is_shown(core: Core) -> bool:
    """Return whether the client of the present request may use the console."""
    try:
        check_place(core)
    except RequestError:
        return False
    return True
