"""`relay publish`: one publication, over the server's REST API."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click

from relay.cli.parameters import tls_options
from relay.ground.logs import printable

REQUEST_TIMEOUT = 30.0
MAX_ANSWER_BYTES = 1_048_576


@click.command()
@click.argument("channel")
@click.argument("data", metavar="JSON")
@click.option(
    "--type", "type_", metavar="TYPE", help="The type of the publication. Default: the type of the channel's namespace."
)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The URL of the server.")
@click.option("--key", envvar="RELAY_KEY", show_envvar=True, help="An API key with the scope publish.")
@tls_options
def publish(
    channel: str, data: str, type_: str | None, url: str, key: str | None, tls: Callable[[], ssl.SSLContext]
) -> None:
    """Publish JSON, an object, to CHANNEL, and print its position. If JSON is -, read it from stdin.

    \b
    Example:
      export RELAY_KEY=$(relay keys create --user ops --scope publish)
      relay publish market:BTC '{"price": 87250.5}'
      echo '{"message": "Hello"}' | relay publish user:alice -
    """
    if not key:
        raise click.UsageError(
            "an API key is needed, in --key or RELAY_KEY; create one with: relay keys create --user U --scope publish"
        )
    if not (key.isascii() and key.isprintable()):
        raise click.BadParameter("an API key has only printable ASCII characters.", param_hint="--key")
    item: dict[str, Any] = {"channel": channel, "data": _object(data)}
    if type_ is not None:
        item["type"] = type_
    status, answer = _post(_server(url), json.dumps(item).encode(), key, tls)
    if status == http.client.OK and isinstance(answer, dict) and "data" in answer:
        click.echo(json.dumps(answer["data"]))
        return
    raise click.ClickException(_refusal(status, answer, url))


def _object(data: str) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if data == "-" and sys.stdin is not None else data
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise click.BadParameter("is nested too deeply.", param_hint="JSON") from None
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="JSON") from None
    if not isinstance(value, dict):
        raise click.BadParameter("must be an object, such as '{\"price\": 1}'.", param_hint="JSON")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _server(url: str) -> SplitResult:
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


def _post(server: SplitResult, body: bytes, key: str, tls: Callable[[], ssl.SSLContext]) -> tuple[int, object]:
    """Send the request. Return the status and the decoded response, or None if it is not JSON.

    Proxies and redirections are not used, so only that server gets the key.
    """
    host = server.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, server.port, timeout=REQUEST_TIMEOUT, context=tls())
        if server.scheme == "https"
        else http.client.HTTPConnection(host, server.port, timeout=REQUEST_TIMEOUT)
    )
    where = server._replace(path="", query="", fragment="", netloc=server.netloc.rpartition("@")[2]).geturl()
    try:
        headers = {"Content-Type": "application/json", "X-API-Key": key}
        connection.request("POST", f"{server.path.rstrip('/')}/v1/publish", body, headers)
        response = connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES)
    except TimeoutError:
        raise click.ClickException(f"{where} did not answer within {REQUEST_TIMEOUT:g} seconds") from None
    except ssl.SSLCertVerificationError as error:
        raise click.ClickException(
            f"the certificate of {where} is not trusted ({error.verify_message}); "
            "name the certificate to trust with --ca FILE, or use the host name in it"
        ) from None
    except ssl.SSLError as error:
        plain = "; if the port serves plain HTTP, use http://" if error.reason == "WRONG_VERSION_NUMBER" else ""
        raise click.ClickException(f"TLS failed with {where}: {error.reason or error}{plain}") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: the host name is not valid
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(
            f"no server answers at {where} ({reason}); is `relay serve` running there?"
        ) from None
    except http.client.HTTPException:
        raise click.ClickException(f"the server at {where} does not speak HTTP") from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(content)
    except (ValueError, RecursionError):
        return response.status, None


def _refusal(status: int, answer: object, url: str) -> str:
    message = answer.get("message") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(message, str):
        return f"{url} answered {status}, but not like Relay; is the URL right?"
    text = f"the server refused with {status}: {message}"
    errors = answer.get("errors")
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict):
            text += f"; {error.get('field')}: {error.get('message')}"
    if isinstance(answer.get("errorId"), str):
        text += f" (errorId {answer['errorId']} in the server's log)"
    return printable(text)
