"""Makes the OpenAPI 3.1 document of the REST API from the descriptions that stand beside the routes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import attrs

from relay.access.publishing import ITEM
from relay.api.answers import CONTENT_TYPE
from relay.api.operation import Access, Operation, Success
from relay.ground.errors import Code, RefusalReason
from relay.ground.schema import Schema, Schemas, reference
from relay.transports.http_errors import STATUS, Refusal

TAGS: Sequence[tuple[str, str, str]] = (
    ("/v1/admin/", "admin", "Connections, channels, limits and API keys, for operators."),
    ("/api/", "management", "The methods of Centrifugo's HTTP API."),
    ("/v1/chatrooms", "rooms", "Chat rooms, their members and their messages."),
    ("/v1/notifications", "notifications", "The notifications of users."),
    ("/v1/sse", "streams", "Event streams, and tickets for them."),
    ("/v1/tickets", "streams", "Event streams, and tickets for them."),
    ("/v1/channels/", "channels", "Channels by name, for clients without a connection."),
    ("/v1/", "publishing", "Publishing, for backends."),
    ("/", "server", "The server itself."),
)
"""The tag of the paths that begin so, and its description. The first that fits counts."""
CHANNEL: Schema = {
    "type": "string",
    "format": "channel",
    "minLength": 1,
    "description": "The name of a channel: a namespace of this server, a colon, and an id of 1 to 256 printable "
    "characters, as in `market:BTC`.",
}
PATH_SCHEMAS: Mapping[str, Schema] = {
    "name": reference("Channel"),
    "webhook": {"type": "string", "format": "webhook", "minLength": 1},
}
"""The schemas of the parts of a path that are more than an id, by the name of the part."""
_ID: Schema = {"type": "string", "minLength": 1}
_PART = re.compile(r"<(?:\w+:)?(\w+)>")
_OPTIONAL = frozenset({Access.READER, Access.OPERATOR, Access.STREAM})
_NO_KEYS = frozenset({Access.PERSON, Access.STREAM})
_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The token of a user."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key of this server."},
}
_HEADERS: Mapping[int, tuple[str, Schema]] = {
    401: ("WWW-Authenticate", {"type": "string"}),
    429: ("Retry-After", {"type": "integer", "minimum": 1, "description": "Seconds."}),
    503: ("Retry-After", {"type": "integer", "minimum": 1, "description": "Seconds."}),
}


@attrs.frozen
class Route:
    """One route: its path as the router writes it, and its description."""

    method: str
    path: str
    name: str
    """The name of the function that answers it."""
    operation: Operation


def build(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document of these routes."""
    schemas = Schemas()
    schemas.named |= {"Channel": CHANNEL, "Item": ITEM}
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        paths.setdefault(template(route.path), {})[route.method.lower()] = _operation(route, schemas)
    refusal = schemas.of(Refusal)
    schemas.named["Refusal"]["properties"]["reason"] = {
        "type": "string",
        "enum": [reason.value for reason in RefusalReason],
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Relay",
            "version": version("relay-server"),
            "summary": "The REST API of a realtime server.",
            "description": "The handbook of this server is at `/docs`, and its WebSocket APIs are in `/asyncapi.json`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": text} for name, text in {tag: text for _, tag, text in reversed(TAGS)}.items()
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "responses": {_response_name(status): _refused(status, refusal) for status in sorted(set(STATUS.values()))},
            "securitySchemes": _SCHEMES,
        },
    }


def template(path: str) -> str:
    """Return a path of the router as OpenAPI writes it: `<path:name>` is `{name}`."""
    return _PART.sub(r"{\1}", path)


def tag_of(path: str) -> str:
    """Return the tag of a path."""
    return next(name for prefix, name, _ in TAGS if path.startswith(prefix))


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    described, tag = route.operation, tag_of(route.path)
    operation: dict[str, Any] = {
        "operationId": f"{tag}_{route.name}",
        "tags": [tag],
        "summary": described.summary,
        "description": f"For {described.access.value}.",
        "security": _security(described.access),
    }
    if parameters := [*_path_parameters(route.path), *_parameters(described, schemas)]:
        operation["parameters"] = parameters
    if bodies := _bodies(described, schemas):
        operation["requestBody"] = {"content": bodies, "required": described.body_required}
    operation["responses"] = _responses(described, schemas)
    return operation


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access is Access.PUBLIC:
        return []
    keys: list[dict[str, list[str]]] = [] if access in _NO_KEYS else [{"key": []}]
    return [*([{}] if access in _OPTIONAL else []), {"token": []}, *keys]


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS.get(name, _ID)}
        for name in _PART.findall(path)
    ]


def _parameters(described: Operation, schemas: Schemas) -> list[dict[str, Any]]:
    properties, required = ({}, []) if described.query is None else schemas.properties(described.query)
    query = [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in properties.items()
    ]
    headers = [
        {"name": name, "in": "header", "required": False, "schema": schemas.of(type_)}
        for name, type_ in described.headers.items()
    ]
    return query + headers


def _bodies(described: Operation, schemas: Schemas) -> dict[str, Any]:
    bodies = {} if described.body is None else {CONTENT_TYPE: described.body}
    return _content({**bodies, **described.bodies}, schemas)


def _responses(described: Operation, schemas: Schemas) -> dict[str, Any]:
    media = described.media or {CONTENT_TYPE: Success(described.answer, described.more, described.status)}
    answer = {"description": described.summary, "content": _content(media, schemas)}
    responses: dict[int, Any] = {described.status: answer}
    for status in sorted({STATUS[code] for code in described.codes}):
        responses[status] = {"$ref": f"#/components/responses/{_response_name(status)}"}
    for status, content in described.others.items():
        responses[status] = {"description": HTTPStatus(status).phrase, "content": _content(content, schemas)}
    return {str(status): response for status, response in sorted(responses.items())}


def _content(media: Mapping[str, Any], schemas: Schemas) -> dict[str, Any]:
    return {type_: {"schema": _shape(shape, schemas)} for type_, shape in media.items()}


def _shape(shape: Any, schemas: Schemas) -> Schema:
    if not isinstance(shape, Success):
        return schemas.of(shape)
    more = {name: schemas.of(type_) for name, type_ in shape.more.items()}
    properties = {
        "success": {"type": "boolean", "const": True},
        "status": {"type": "integer", "const": shape.status},
        "data": schemas.of(shape.data),
        **more,
    }
    return {"type": "object", "properties": properties, "required": [*properties]}


def _response_name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def _refused(status: int, refusal: Schema) -> dict[str, Any]:
    codes = ", ".join(f"`{code.value}`" for code in Code if STATUS[code] == status)
    response: dict[str, Any] = {
        "description": f"Refused: {codes}.",
        "content": {CONTENT_TYPE: {"schema": refusal}},
    }
    if status in _HEADERS:
        name, schema = _HEADERS[status]
        response["headers"] = {name: {"schema": schema}}
    return response
