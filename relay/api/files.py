"""Responses with a file of the package: cached, and 304 to a browser that has the file already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import attrs
from quart import Request, Response


@attrs.frozen
class Document:
    """A body and its ETag."""

    body: bytes
    etag: str


def document(body: bytes) -> Document:
    """Return a body with the ETag that follows from its bytes."""
    return Document(body, hashlib.sha256(body).hexdigest()[:32])


def respond(request: Request, package: str, path: str, content_type: str, headers: Mapping[str, str]) -> Response:
    """Return a response with a file of a package, or 304 if the request names its ETag. The file must exist."""
    return respond_with(request, _file(package, path), content_type, headers)


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
def names(package: str, folder: str) -> frozenset[str]:
    """Return the paths of all files below a folder of a package, relative to it."""
    return frozenset(_below(resources.files(package).joinpath(folder), ""))


def _below(folder: Traversable, prefix: str) -> list[str]:
    found: list[str] = []
    for entry in folder.iterdir():
        found += _below(entry, f"{prefix}{entry.name}/") if entry.is_dir() else [prefix + entry.name]
    return found


@cache
def read(package: str, path: str) -> bytes:
    """Return a file of a package. The caller names files of the package only."""
    return resources.files(package).joinpath(path).read_bytes()


@cache
def _file(package: str, path: str) -> Document:
    return document(read(package, path))
