"""Makes the AsyncAPI 3.0 document of the WebSocket APIs from the tables of their frames. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from relay.api.frames import Frame, WireApi
from relay.api.openapi import CHANNEL
from relay.ground.errors import RefusalReason
from relay.ground.schema import Param, Schema, Schemas

REASON: Schema = {"type": "string", "enum": [reason.value for reason in RefusalReason]}
"""Why a name or a right was refused."""


def build(apis: Iterable[WireApi]) -> dict[str, Any]:
    """Return the document of these endpoints."""
    schemas = Schemas()
    schemas.named |= {"Channel": CHANNEL, "Reason": REASON}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for api in apis:
        channels[api.name] = _channel(api, schemas)
        for side, frames in (("client", api.client), ("server", api.server)):
            for frame in frames:
                messages[f"{api.name}.{side}.{frame.key}"] = _message(frame, schemas)
        operations |= _operations(api)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Relay",
            "version": version("relay-server"),
            "description": "The WebSocket APIs of a realtime server. The handbook of this server is at `/docs`, and its "
            "REST API is in `/openapi.json`.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {name: _server(protocol) for name, protocol in (("plain", "ws"), ("tls", "wss"))},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": dict(sorted(schemas.named.items()))},
    }


def payload(frame: Frame, schemas: Schemas) -> Schema:
    """Return the schema of a frame."""
    fields = frame.fields
    if not isinstance(fields, dict) or not all(isinstance(field, Param) for field in fields.values()):
        return schemas.of(fields)
    return schemas.of({"type": Param({"type": "string", "const": frame.type}, required=True), **fields})


def _server(protocol: str) -> dict[str, Any]:
    host = {"default": "localhost:8080", "description": "The host and the port of this server."}
    return {"host": "{host}", "protocol": protocol, "variables": {"host": host}}


def _channel(api: WireApi, schemas: Schemas) -> dict[str, Any]:
    query = {name: schemas.of(field.schema) for name, field in api.query.items()}
    binding: dict[str, Any] = {"method": "GET"}
    if query:
        binding["query"] = {"type": "object", "properties": query}
    channel: dict[str, Any] = {
        "address": api.path,
        "summary": api.summary,
        "messages": {
            f"{side}.{frame.key}": {"$ref": f"#/components/messages/{api.name}.{side}.{frame.key}"}
            for side, frames in (("client", api.client), ("server", api.server))
            for frame in frames
        },
        "bindings": {"ws": binding},
        "x-closes": [
            {"code": reason.close_code, "reason": reason.text, "name": reason.name.lower()} for reason in api.closes
        ],
    }
    if api.parameters:
        channel["parameters"] = {name: {"description": text} for name, text in api.parameters.items()}
    return channel


def _message(frame: Frame, schemas: Schemas) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": frame.type,
        "summary": frame.summary,
        "payload": payload(frame, schemas),
        "examples": [{"payload": example} for example in frame.examples],
    }
    if frame.prefix:
        message["x-prefix"] = frame.prefix
    return message


def _operations(api: WireApi) -> dict[str, Any]:
    """Return the operations of an endpoint, seen from the server: it receives the frames of the client."""
    channel = {"$ref": f"#/channels/{api.name}"}
    operations: dict[str, Any] = {}
    for frame in api.client:
        operation = {"action": "receive", "channel": channel, "messages": _references(api, "client", [frame.key])}
        if frame.answers:
            answers = [answer for answer in api.server if answer.type in frame.answers]
            messages = _references(api, "server", [answer.key for answer in answers])
            operation["reply"] = {"channel": channel, "messages": messages}
        operations[f"{api.name}.receive.{frame.key}"] = operation
    messages = _references(api, "server", [frame.key for frame in api.server])
    operations[f"{api.name}.send"] = {"action": "send", "channel": channel, "messages": messages}
    return operations


def _references(api: WireApi, side: str, keys: Sequence[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{api.name}/messages/{side}.{key}"} for key in keys]
