"""`relay deploy nginx`: a site for nginx in front of Relay."""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.deploy.files import deliver, output_options
from relay.cli.deploy.proxy import (
    domain_option,
    hints,
    largest_body,
    longest_ping,
    read_timeout,
    timeouts,
    upstream_of,
)
from relay.cli.settings import config_option, load
from relay.config.tree import Config

SITE = """\
# nginx (1.18 or newer) in front of Relay, written by `relay deploy nginx`. Install it with:
#   relay deploy nginx --domain {domain} | sudo tee /etc/nginx/conf.d/relay.conf
#   sudo nginx -t && sudo systemctl reload nginx
# Each client takes two of nginx's connections. For more than 300 clients raise these in /etc/nginx/nginx.conf:
#   worker_rlimit_nofile 65536;            (at the top)
#   worker_connections 32768;              (in the block events)

# The header Connection for Relay: `upgrade` for a WebSocket, and none for other requests, which share connections.
map $http_upgrade $relay_connection {{
    default '';
    ~*^websocket$ upgrade;
}}

# The line of a request without its query, because /api/ws?token=... has a token there.
log_format relay '$remote_addr [$time_local] "$request_method $uri" $status $body_bytes_sent $request_time';

upstream relay {{
    server {upstream};
    # Connections that wait for the next request. Relay closes idle ones after {idle_timeout} s, so nginx does it before.
    keepalive 64;
    keepalive_timeout {keep_alive}s;
}}

server {{
    listen 80;
    listen [::]:80;
    server_name {domain};

    # Everything is https. certbot needs this path to prove that the name is yours.
    location /.well-known/acme-challenge/ {{
        root /var/www/html;
    }}
    location / {{
        return 301 https://$host$request_uri;
    }}
}}

server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    # Many streams of one page over one connection. nginx 1.25.1 or newer:
    # http2 on;
    server_name {domain};
    access_log /var/log/nginx/relay.log relay;

    # The certificate, as certbot keeps it. Name the files of yours.
    ssl_certificate /etc/letsencrypt/live/{domain}/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/{domain}/privkey.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:relay:10m;

    # WebSocket: HTTP/1.1 and both headers of the upgrade.
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $relay_connection;
    # Relay compares Host with the origin of a page, so that its own pages are allowed.
    proxy_set_header Host $http_host;
    # The address of the client, which Relay's limits count. Relay believes it if server.trusted_proxies has nginx.
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    # So Relay knows that the client uses HTTPS, which the console needs.
    proxy_set_header X-Forwarded-Proto $scheme;

    # Streams reach the client at once.
    proxy_buffering off;
    # Relay pings each connection every {ping:g} s or more often, so only a dead one is silent for this long.
    proxy_read_timeout {read_timeout}s;
    proxy_send_timeout {read_timeout}s;
    # The largest body that this configuration of Relay accepts on most paths, and the pause that it allows within one.
    client_max_body_size {largest_body};
    client_body_timeout {body_timeout}s;
{tls}
    # Publications have a larger bound, which Relay checks. A stream of lines (NDJSON) has any length, and each line is
    # published as it arrives.
    location = /v1/publish {{
        client_max_body_size 0;
        proxy_request_buffering off;
        proxy_pass {scheme}://relay;
    }}
    # A request of the management API may publish as much (limits.max_publish_bytes).
    location /api/ {{
        client_max_body_size {largest_api_body};
        proxy_pass {scheme}://relay;
    }}
    location / {{
        proxy_pass {scheme}://relay;
    }}
}}
"""

TLS = """
    # Relay speaks TLS itself (server.tls_cert). nginx does not verify it, because it is on the same machine.
    proxy_ssl_server_name on;
    proxy_ssl_name $host;
    proxy_ssl_verify off;
"""


@click.command()
@domain_option
@output_options
@config_option
def nginx(domain: str, folder: Path | None, force: bool, config_file: Path | None) -> None:
    """Print a site for nginx on the same machine: TLS, WebSocket, streams and client addresses.

    --output writes relay.conf.

    \b
    Example:
      relay deploy nginx --domain relay.example.org | sudo tee /etc/nginx/conf.d/relay.conf
      sudo nginx -t && sudo systemctl reload nginx
    """
    config = load(config_file)
    deliver({"relay.conf": site_of(config, domain)}, folder, force=force, hints=hints(config, domain))


def site_of(config: Config, domain: str) -> str:
    """Return the site for the folder conf.d of nginx.

    Raises:
        ClickException: the configuration has no fixed port.
    """
    uses_tls = config.server.tls_cert is not None
    return SITE.format(
        domain=domain,
        upstream=upstream_of(config),
        ping=longest_ping(config),
        read_timeout=read_timeout(config),
        largest_body=largest_body(config),
        largest_api_body=max(largest_body(config), config.limits.max_publish_bytes),
        scheme="https" if uses_tls else "http",
        tls=TLS if uses_tls else "",
        **timeouts(),
    )
