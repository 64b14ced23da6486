"""`relay publish`: one publication, over the server's REST API."""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

import click

from relay.cli.parameters import Trust, tls_options
from relay.cli.remote import check_key, refusal, request, target_at
from relay.cli.settings import config_option


@click.command()
@click.argument("channel")
@click.argument("data", metavar="JSON")
@click.option(
    "--type", "type_", metavar="TYPE", help="The type of the publication. Default: the type of the channel's namespace."
)
@click.option("--url", metavar="URL", help="The URL of the server. Default: the local server.")
@click.option("--key", envvar="RELAY_KEY", show_envvar=True, help="An API key with the scope publish.")
@config_option
@tls_options
def publish(
    channel: str, data: str, type_: str | None, url: str | None, key: str | None, config_file: Path | None, tls: Trust
) -> None:
    """Publish JSON to CHANNEL, and print its position. If JSON is -, read it from stdin.

    A built-in channel takes an object. A channel of a namespace of your own takes any JSON value.

    \b
    Example:
      export RELAY_KEY=$(relay keys create --user ops --scope publish)
      relay publish market:BTC '{"price": 87250.5}'
      echo '{"message": "Hello"}' | relay publish user:alice -
      relay publish readings:cellar 21.5
      relay publish readings:roof -- -3
    """
    if not key:
        raise click.UsageError(
            "an API key is needed, in --key or RELAY_KEY; create one with: relay keys create --user U --scope publish"
        )
    check_key(key)
    item: dict[str, Any] = {"channel": channel, "data": _value(data)}
    if type_ is not None:
        item["type"] = type_
    target = target_at(url, config_file, tls)
    status, answer = request(target, "POST", "/v1/publish", {"X-API-Key": key}, json.dumps(item).encode())
    if status == http.client.OK and isinstance(answer, dict) and "data" in answer:
        click.echo(json.dumps(answer["data"]))
        return
    raise click.ClickException(refusal(status, answer, target.server.geturl()))


def _value(data: str) -> object:
    try:
        text = sys.stdin.buffer.read() if data == "-" and sys.stdin is not None else data
        value: object = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise click.BadParameter("is nested too deeply.", param_hint="JSON") from None
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="JSON") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
