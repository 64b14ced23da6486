"""Answers to HTTP requests, as far as Relay's own have to be read: a status, a length, a body. Pure."""

from __future__ import annotations

import json

import attrs

_HEAD_END = b"\r\n\r\n"


@attrs.frozen
class Answer:
    """One answer."""

    status: int
    body: bytes
    closes: bool
    """Whether the connection is of no use for another request."""

    def said(self) -> str:
        """Return what a refusal says, for people."""
        try:
            message = json.loads(self.body)["message"]
        except (ValueError, KeyError, TypeError):
            return str(self.status)
        return f"{self.status}, {message}"


def read(data: bytes) -> tuple[Answer, int] | None:
    """Return the first answer and its size in bytes, or None if it is not complete."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    begin = end + len(_HEAD_END)
    size = begin + int(headers.get("content-length", 0))
    if len(data) < size:
        return None
    return Answer(int(first.split(" ")[1]), data[begin:size], headers.get("connection", "").lower() == "close"), size
