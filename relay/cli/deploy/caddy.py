"""`relay deploy caddy`: a Caddyfile for Caddy in front of Relay."""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.deploy.files import deliver, output_options
from relay.cli.deploy.proxy import domain_option, hints, timeouts, upstream_of
from relay.cli.settings import config_option, load
from relay.config.tree import Config

SITE = """\
# Caddy (2.6 or newer) in front of Relay, written by `relay deploy caddy`. Install it with:
#   relay deploy caddy --domain {domain} | sudo tee /etc/caddy/Caddyfile
#   sudo caddy validate --config /etc/caddy/Caddyfile && sudo systemctl reload caddy
# Caddy gets a certificate for the name by itself, if the name leads to this machine and ports 80 and 443 are open.
# To use your own certificate, add to the site:
#   tls /etc/ssl/{domain}.pem /etc/ssl/{domain}.key
#
# Caddy 2.11.6 and newer end a body that pauses for a minute. Relay allows {body_timeout} s. If your backend sends streams of
# lines (NDJSON) to /v1/publish through Caddy, remove the # of the next seven lines:
# {{
# 	servers {{
# 		timeouts {{
# 			read_body_idle {body_timeout}s
# 		}}
# 	}}
# }}

{domain} {{
	# WebSocket and answers that are streams need no setting: Caddy passes upgrades, and event streams at once.
	# Caddy sets X-Forwarded-For to the address of the client, which Relay's limits count. Relay believes it if
	# server.trusted_proxies has Caddy. If another proxy is in front of Caddy, see trusted_proxies of Caddy.
	# Caddy writes no access log. If you add one, remove the query: /api/ws?token=... has a token there.
	reverse_proxy {scheme}{upstream} {{
		# A reload of Caddy closes every WebSocket at once. With Caddy 2.7 or newer, remove the # to give them time:
		# stream_close_delay 5m
		transport http {{
			# Relay closes idle connections after {idle_timeout} s, so Caddy does it before.
			keepalive {keep_alive}s
{tls}		}}
	}}
}}
"""

TLS = """\
			# Relay speaks TLS itself (server.tls_cert). Caddy does not verify it, because it is on the same machine.
			tls_insecure_skip_verify
"""


@click.command()
@domain_option
@output_options
@config_option
def caddy(domain: str, folder: Path | None, force: bool, config_file: Path | None) -> None:
    """Print a Caddyfile for Caddy on the same machine: TLS with its own certificate, WebSocket and client addresses.

    --output writes Caddyfile.

    \b
    Example:
      relay deploy caddy --domain relay.example.org | sudo tee /etc/caddy/Caddyfile
      sudo systemctl reload caddy
    """
    config = load(config_file)
    deliver({"Caddyfile": site_of(config, domain)}, folder, force=force, hints=hints(config, domain))


def site_of(config: Config, domain: str) -> str:
    """Return the Caddyfile.

    Raises:
        ClickException: the configuration has no fixed port.
    """
    uses_tls = config.server.tls_cert is not None
    return SITE.format(
        domain=domain,
        scheme="https://" if uses_tls else "",
        upstream=upstream_of(config),
        tls=TLS if uses_tls else "",
        **timeouts(),
    )
