"""The server of a load, started for it or already running, and the credentials for it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import attrs

from relay.bench import counters
from relay.bench.connection import Address
from relay.bench.counters import Counters
from relay.bench.http_response import NO_RELAY
from relay.bench.local_server import LocalServer, local_server

REQUEST_TIMEOUT = 30.0
"""Seconds that a request to the server may wait for a byte."""
TOKEN_PERIOD = 24 * 3600
"""Seconds for which the tokens of the clients are valid: longer than any run."""


class TargetError(Exception):
    """The server cannot be used for this load. The message is for people."""


@attrs.define(eq=False)
class Target:
    """A server, or several nodes of one database, and the load's credentials for it."""

    url: str
    """The URL of the first node."""
    addresses: Sequence[Address]
    pid: int | None
    """The id of its process, if that is known and on this machine."""
    _key: str
    _token: Callable[[int], str]
    _server: LocalServer | None = None

    @property
    def address(self) -> Address:
        """The address of the first node, which is published to."""
        return self.addresses[0]

    @property
    def key(self) -> str:
        """An API key that may publish."""
        if not self._key:
            raise TargetError(
                "this load publishes, so it needs an API key, in --key or RELAY_KEY; create one on the server with: "
                "relay keys create --user bench --scope publish"
            )
        return self._key

    def token(self, number: int) -> str:
        """Return the token of the load's user of this number."""
        return self._token(number)

    def restart(self, meanwhile: Callable[[], None]) -> None:
        """Restart the load's own server at the same address; `meanwhile` is called again and again until it has stopped.

        Raises:
            TargetError: the server is not the load's own.
            ServerError: it does not start.
        """
        if self._server is None:
            raise TargetError("only a server of the load's own can be restarted: leave out --url")
        self._server.restart(meanwhile)
        self.pid = self._server.pid

    def create_room(self) -> str:
        """Create a public chat room. Return its id."""
        headers = {"Authorization": f"Bearer {self.token(0)}", "Content-Type": "application/json"}
        try:
            status, body = self._request(
                self.address, "POST", "/v1/chatrooms", json.dumps({"name": "Benchmark"}), headers
            )
            answer = json.loads(body)
            if status != http.client.CREATED:
                raise TargetError(f"no chat room could be created: {status}, {answer['message']}")
            return str(answer["data"]["id"])
        except (OSError, http.client.HTTPException) as error:
            raise TargetError(f"no chat room could be created at {self.url}: {error}") from None
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"no chat room could be created at {self.url}: {NO_RELAY}") from None

    def counters(self) -> Counters | None:
        """Return the counters of all nodes together, or None if this client may not read them."""
        found = [self._counters(address) for address in self.addresses]
        return counters.added([one for one in found if one is not None]) if None not in found else None

    def _counters(self, address: Address) -> Counters | None:
        headers = {"X-API-Key": self._key} if self._key else {}
        try:
            status, body = self._request(address, "GET", counters.PATH, None, headers)
        except (OSError, http.client.HTTPException):  # the caller reports that /metrics could not be read
            return None
        return counters.read(body.decode(errors="replace")) if status == http.client.OK else None

    def _request(
        self, address: Address, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Return the status and the body of a response. Blocks, so it is only called between phases of a load."""
        host, tls = address.host, address.tls
        connection = (
            http.client.HTTPConnection(host, timeout=REQUEST_TIMEOUT)
            if tls is None
            else http.client.HTTPSConnection(host, timeout=REQUEST_TIMEOUT, context=tls)
        )
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def open_target(
    urls: Sequence[str],
    tokens: Sequence[str],
    key: str | None,
    pid: int | None,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Iterator[Target]:
    """Yield the server or the nodes at `urls`, or start a server and stop it at the end of the block.

    Raises:
        TargetError: a URL is not valid, or its host has no address.
        ServerError: the server does not start.
    """
    if not urls:
        with local_server() as server:

            def mint(number: int) -> str:
                import jwt

                now = int(time.time())
                claims = {"sub": f"bench-{number}", "iat": now, "exp": now + TOKEN_PERIOD}
                return jwt.encode(claims, server.secret, algorithm="HS256")

            yield Target(server.url, [_address(server.url, tls)], server.pid, server.key, mint, server)
        return

    def given(number: int) -> str:
        if not tokens:
            raise TargetError(
                "this load authenticates, so it needs a token, in --token or RELAY_TOKEN; create one on the server "
                "with: "
                "relay token bench --expires 1h"
            )
        return tokens[number % len(tokens)]

    yield Target(urls[0], [_address(url, tls) for url in urls], pid, key or "", given)


def _address(url: str, tls: Callable[[], ssl.SSLContext]) -> Address:
    wrong = TargetError(f"{url!r} is not the URL of a server; use one such as http://127.0.0.1:8080")
    try:
        parts = urlsplit(url)
        secure = parts.scheme in ("https", "wss")
        host, port = parts.hostname, parts.port or (443 if secure else 80)
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https", "ws", "wss") or not host or parts.path not in ("", "/"):
        raise wrong
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise TargetError(f"{host} has no known address: {getattr(error, 'strerror', None) or error}") from None
    return Address(family, sockaddr, parts.netloc.rpartition("@")[2], tls() if secure else None, host)
