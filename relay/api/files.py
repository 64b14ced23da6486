"""Responses with a file of the package: cached, and 304 to a browser that has the file already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

from quart import Request, Response

from relay.client import files


def respond(request: Request, path: str, content_type: str, headers: Mapping[str, str]) -> Response:
    """Return a response with a file of `relay.client`, or 304 if the request names its ETag."""
    etag = _etag(path)
    if etag in request.if_none_match:
        response = Response(b"", 304, dict(headers))
        del response.headers["Content-Type"]
    else:
        response = Response(files.read(path), 200, dict(headers), content_type=content_type)
    response.set_etag(etag)
    return response


@cache
def _etag(path: str) -> str:
    return hashlib.sha256(files.read(path)).hexdigest()[:32]
