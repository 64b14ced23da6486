"""`relay publish`: one publication, over the server's REST API."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from collections.abc import Callable
from typing import Any

import click

from relay.cli.parameters import tls_options
from relay.cli.remote import check_key, refusal, request, server_of


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
    check_key(key)
    item: dict[str, Any] = {"channel": channel, "data": _object(data)}
    if type_ is not None:
        item["type"] = type_
    status, answer = request(server_of(url), "POST", "/v1/publish", {"X-API-Key": key}, tls, json.dumps(item).encode())
    if status == http.client.OK and isinstance(answer, dict) and "data" in answer:
        click.echo(json.dumps(answer["data"]))
        return
    raise click.ClickException(refusal(status, answer, url))


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
