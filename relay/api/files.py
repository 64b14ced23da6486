"""Responses with a file of the package: cached, and 304 to a browser that has the file already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import attrs
from quart import Request, Response

from relay.client import files


@attrs.frozen
class Document:
    """A body and its ETag."""

    body: bytes
    etag: str


def document(body: bytes) -> Document:
    """Return a body with the ETag that follows from its bytes."""
    return Document(body, hashlib.sha256(body).hexdigest()[:32])


def respond(request: Request, path: str, content_type: str, headers: Mapping[str, str]) -> Response:
    """Return a response with a file of `relay.client`, or 304 if the request names its ETag."""
    return respond_with(request, _file(path), content_type, headers)


def respond_with(request: Request, found: Document, content_type: str, headers: Mapping[str, str]) -> Response:
    """Return a response with a document, or 304 if the request names its ETag."""
    if found.etag in request.if_none_match:
        response = Response(b"", 304, dict(headers))
        del response.headers["Content-Type"]
    else:
        response = Response(found.body, 200, dict(headers), content_type=content_type)
    response.set_etag(found.etag)
    return response


@cache
def _file(path: str) -> Document:
    return document(files.read(path))
