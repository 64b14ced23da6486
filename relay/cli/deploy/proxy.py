"""The facts that the files of every reverse proxy need, and the hints beside them."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator
from typing import Any

import attrs
import click

from relay.cli.deploy.facts import fixed_port
from relay.cli.remote import local_host
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import Config

EXAMPLE_DOMAIN = "relay.example.com"
"""The domain in files that were made without --domain."""
MIN_READ_TIMEOUT = 120
"""Seconds of silence after which a proxy may end a connection, at least."""
KEEP_ALIVE_MARGIN = 10
"""Seconds by which a proxy closes an idle connection to Relay before Relay does. A proxy that kept it for longer could send
a request on a connection that just closes."""
LOOPBACK = "127.0.0.1"


def domain_option(command: Any) -> Any:
    """Add --domain to a command."""
    return click.option(
        "--domain",
        default=EXAMPLE_DOMAIN,
        show_default=True,
        metavar="NAME",
        callback=_checked_domain,
        help="The name in the URL of this server.",
    )(command)


def _checked_domain(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if len(value) > 253 or not re.fullmatch(rf"{label}(\.{label})*", value.lower()):
        raise click.BadParameter(f"{value!r} is not the name of a host; use one such as {EXAMPLE_DOMAIN}")
    return value.lower()


def upstream_of(config: Config) -> str:
    """Return the address, `host:port`, at which a proxy on the same machine reaches Relay.

    Raises:
        ClickException: the configuration has no fixed port.
    """
    return f"{_bracketed(local_host(config))}:{fixed_port(config)}"


def longest_ping(config: Config) -> float:
    """Return the longest `ping_interval` of the dialects, in seconds."""
    dialects = (getattr(config.dialects, field.name) for field in attrs.fields(type(config.dialects)))
    return max(float(getattr(dialect, "ping_interval", 0.0)) for dialect in dialects)


def read_timeout(config: Config) -> int:
    """Return the seconds of silence after which a proxy may end a connection: more than two pings of any dialect."""
    return max(MIN_READ_TIMEOUT, 2 * math.ceil(longest_ping(config)) + 10)


def timeouts() -> dict[str, int]:
    """Return the bounds of Relay, and of a proxy's connections to it, by their names in the files. In seconds."""
    from relay.transports.http import BODY_TIMEOUT, KEEP_ALIVE_TIMEOUT

    idle = int(KEEP_ALIVE_TIMEOUT)
    return {"body_timeout": int(BODY_TIMEOUT), "idle_timeout": idle, "keep_alive": idle - KEEP_ALIVE_MARGIN}


def largest_body(config: Config) -> int:
    """Return the size in bytes of the largest body that Relay accepts, except on /v1/publish and below /api/."""
    from relay.access.publishing import MAX_OTHER_BYTES

    namespaces = config.namespaces.values()
    items = [one.max_data_bytes + MAX_OTHER_BYTES for one in namespaces if isinstance(one, NamespaceConfig)]
    return max(config.limits.max_body_bytes, config.dialects.socketio.max_payload_bytes, *items)


def hints(config: Config, domain: str) -> Iterator[str]:
    """Yield what the operator must change, so that addresses, limits and TLS are right behind the proxy."""
    proxy = ipaddress.ip_address(_seen_as(config))
    networks = [ipaddress.ip_network(network, strict=False) for network in config.server.trusted_proxies]
    if not any(proxy in network for network in networks):
        yield f"Add {proxy} to server.trusted_proxies. Otherwise every client has the address of the proxy, and they share"
        yield "one limit."
    if not _is_loopback(config.server.host):
        yield f'Clients can reach {config.server.host} without the proxy. Set server.host to "{LOOPBACK}" to prevent that.'
    if config.server.tls_cert is not None:
        yield "Relay speaks TLS itself. Behind a proxy on the same machine it can do without: remove server.tls_cert and"
        yield "server.tls_key, and print this file again."
    if domain == EXAMPLE_DOMAIN:
        yield f"Replace {EXAMPLE_DOMAIN} by the name of your server, or print this file with --domain NAME."


def _seen_as(config: Config) -> str:
    """Return the address that Relay sees for a proxy on the same machine."""
    host = local_host(config)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return LOOPBACK


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
