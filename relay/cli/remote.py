"""Asks a server over HTTP for a command: one at a URL with an API key, or the local one, with a token of its own or a key.

Proxies and redirections are not used, so only that server gets the key. The local server shows the certificate of the
configuration, so no other program at its port gets the token.
"""

from __future__ import annotations

import functools
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import attrs
import click

from relay.cli.parameters import Tls, Trust, tls_options
from relay.cli.settings import config_option, load
from relay.cli.token_secret import signing_secret
from relay.config.tree import Config
from relay.ground.logs import printable

REQUEST_TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""
MAX_ANSWER_BYTES = 1_048_576
"""Bytes that are read of one answer."""
MAX_LINE_BYTES = 262_144
"""Bytes of one line of a stream."""
TOKEN_LIFETIME = 43_200
"""Seconds for which the token is valid that a command makes for the local server: a tail ends with it."""
LOCAL_USER = "relay-command"
"""The user of that token, by which the audit log names a command."""
_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


@attrs.frozen
class Target:
    """A server to ask, and what to advise if it cannot be asked."""

    server: SplitResult
    tls: Tls
    if_silent: str = "is `relay serve` running there?"
    if_untrusted: str = "name the certificate to trust with --ca FILE, or use the host name in it"
    if_plain: str = "if the port serves plain HTTP, use http://"

    @property
    def shown(self) -> str:
        """The URL for messages: without a path, and without a password."""
        netloc = self.server.netloc.rpartition("@")[2]
        return self.server._replace(path="", query="", fragment="", netloc=netloc).geturl()


def server_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and url.isascii()
            and url.isprintable()
            and " " not in url
            and parts.port != 0
        ):
            return parts
    except ValueError:
        pass
    raise click.BadParameter(
        f"{url!r} is not the URL of a server; use one such as http://127.0.0.1:8080", param_hint="--url"
    )


def check_key(key: str) -> None:
    """Raise BadParameter unless the key can be one."""
    if not (key.isascii() and key.isprintable()):
        raise click.BadParameter("an API key has only printable ASCII characters.", param_hint="--key")


def request(
    target: Target, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
) -> tuple[int, object]:
    """Send a request. Return the status and the decoded response, or None if it is not JSON.

    Raises:
        ClickException: the server does not answer.
    """
    with responding(target, method, path, headers, body) as response:
        return response.status, _decoded(response.read(MAX_ANSWER_BYTES))


@contextmanager
def responding(
    target: Target, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Send a request, and yield the response to be read. Raises as `request`, also while it is read."""
    server = target.server
    host = server.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, server.port, timeout=REQUEST_TIMEOUT, context=target.tls())
        if server.scheme == "https"
        else http.client.HTTPConnection(host, server.port, timeout=REQUEST_TIMEOUT)
    )
    with closing(connection), _explained(target):
        content = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, f"{server.path.rstrip('/')}{path}", body, {**content, **headers})
        with closing(connection.getresponse()) as response:
            yield response


@contextmanager
def _explained(target: Target) -> Iterator[None]:
    where = target.shown
    try:
        yield
    except TimeoutError:
        raise click.ClickException(f"{where} did not answer within {REQUEST_TIMEOUT:g} seconds") from None
    except ssl.SSLCertVerificationError as error:
        raise click.ClickException(
            f"the certificate of {where} is not trusted ({error.verify_message}); {target.if_untrusted}"
        ) from None
    except ssl.SSLError as error:
        plain = f"; {target.if_plain}" if error.reason == "WRONG_VERSION_NUMBER" else ""
        raise click.ClickException(f"TLS failed with {where}: {error.reason or error}{plain}") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: the host name is not valid
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"no server answers at {where} ({reason}); {target.if_silent}") from None
    except http.client.HTTPException:
        raise click.ClickException(f"the server at {where} does not speak HTTP") from None


def _decoded(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def refusal(status: int, answer: object, url: str) -> str:
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, str):
        return f"{url} answered {status}, but not like Relay; is the URL right?"
    text = f"the server refused with {status}: {message}"  # the message says all that `errors` says by field
    if isinstance(answer.get("errorId"), str):
        text += f" (errorId {answer['errorId']} in the server's log)"
    return printable(text)


class Remote:
    """The server that a command for admins asks."""

    def __init__(self, target: Target, headers: Mapping[str, str]) -> None:
        self.url = target.server.geturl()
        self._target = target
        self._headers = headers

    def get(self, path: str, **query: object) -> Any:
        """Return the data of a response. Parameters that are None are left out. Raises ClickException."""
        return self._data(*request(self._target, "GET", with_query(path, query), self._headers))

    def post(self, path: str, **params: object) -> Any:
        """Return the data of the response to these parameters. Raises ClickException."""
        body = json.dumps({name: value for name, value in params.items() if value is not None}).encode()
        return self._data(*request(self._target, "POST", path, self._headers, body))

    def text(self, path: str) -> str:
        """Return the body of a response that is text. Raises ClickException."""
        with responding(self._target, "GET", path, self._headers) as response:
            content = response.read(MAX_ANSWER_BYTES)
            if response.status != http.client.OK:
                raise click.ClickException(refusal(response.status, _decoded(content), self.url))
            return content.decode("utf-8", "replace")

    def _data(self, status: int, answer: object) -> Any:
        if 200 <= status < 300 and isinstance(answer, dict) and "data" in answer:
            return answer["data"]
        raise click.ClickException(refusal(status, answer, self.url))

    def lines(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """Yield the lines of a stream, decoded, until the server ends it. Raises ClickException."""
        with responding(self._target, "GET", with_query(path, query), self._headers) as response:
            if response.status != http.client.OK:
                raise click.ClickException(
                    refusal(response.status, _decoded(response.read(MAX_ANSWER_BYTES)), self.url)
                )
            while line := response.readline(MAX_LINE_BYTES):
                entry = _decoded(line) if line.strip() else None
                if isinstance(entry, dict):
                    yield entry


def warn_of_unanswered(data: Mapping[str, Any]) -> None:
    """Print the names of the nodes that did not answer, if there are any, on stderr."""
    if names := data.get("unanswered"):
        click.echo(f"Incomplete: no answer from {printable(', '.join(names))}.", err=True)


def with_query(path: str, query: Mapping[str, object]) -> str:
    """Return a path with those parameters that are not None."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a server. The command gets it as `remote`."""

    @click.option("--url", metavar="URL", help="The URL of the server; needs a key. Default: the local server.")
    @click.option(
        "--key",
        envvar="RELAY_KEY",
        show_envvar=True,
        help="An API key with the scope admin. Default: a token for the local server.",
    )
    @config_option
    @tls_options
    @functools.wraps(command)
    def with_remote(url: str | None, key: str | None, config_file: Path | None, tls: Trust, **options: Any) -> None:
        command(remote=_remote(url, key, config_file, tls), **options)

    return with_remote


def _remote(url: str | None, key: str | None, config_file: Path | None, trust: Trust) -> Remote:
    if key:
        check_key(key)
        return Remote(target_at(url, config_file, trust), {"X-API-Key": key})
    if url is not None:
        raise click.UsageError(
            "--url needs an API key, in --key or RELAY_KEY; create one with: relay keys create --user U --scope admin"
        )
    config = load(config_file)
    from relay.auth.verifier import mint

    token = mint(
        signing_secret(config, create=False, instead="give an API key with the scope admin, in --key or RELAY_KEY"),
        user_id=LOCAL_USER,
        now=datetime.fromtimestamp(int(time.time()), UTC),
        expires_in=TOKEN_LIFETIME,
        admin=True,
        issuer=config.auth.issuer,
        audience=config.auth.audience,
    )
    return Remote(local_target(config, trust), {"Authorization": f"Bearer {token}"})


def target_at(url: str | None, config_file: Path | None, trust: Trust) -> Target:
    """Return the server at a URL; without one, the server of the configuration on this machine."""
    return local_target(load(config_file), trust) if url is None else Target(server_of(url), trust)


def local_host(config: Config) -> str:
    """Return the host at which the server of this configuration answers on this machine."""
    return _OF_ALL.get(config.server.host, config.server.host)


def local_url(config: Config) -> str:
    """Return the URL at which the server of this configuration answers on this machine."""
    return config.server.url_at(local_host(config), config.server.port)


def local_target(config: Config, trust: Trust) -> Target:
    """Return the server of this configuration, on this machine."""
    server = config.server
    restart = "restart it, or name it with --url and --key"
    return Target(
        server_of(local_url(config)),
        trust if server.tls_cert is None else trust.pinned(server.tls_cert),
        if_silent="is `relay serve` running there? If server.host or server.port was changed in the configuration, the "
        f"running server still has the old one: {restart}",
        if_untrusted=f"it is not the one in {trust.ca or server.tls_cert}. The server takes up a renewed file within "
        "20 seconds, or at once with SIGHUP; a service of systemd takes it up with a restart",
        if_plain=f"if server.tls_cert was added to the configuration, the running server still has none: {restart}",
    )
