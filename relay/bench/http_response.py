"""Reads the parts of HTTP responses that Relay uses: status, length, body. Pure."""

from __future__ import annotations

import json
from typing import Any

import attrs

NO_RELAY = "the server there is not Relay"
MAX_HEAD_BYTES = 64 * 1024
"""Bytes of the head of a response. A longer one is not from Relay."""
MAX_SHOWN_BYTES = 80
"""Bytes of a first line that a message shows."""
_HEAD_END = b"\r\n\r\n"
_BEGIN = b"HTTP/1."


class NoAnswerError(Exception):
    """The bytes are not a response of Relay. The message is for people."""


@attrs.frozen
class Answer:
    """One response."""

    status: int
    body: bytes
    closes: bool
    """Whether the server closes the connection after this response."""

    def said(self) -> str:
        """Return the status and message of a refusal, for people."""
        try:
            message = json.loads(self.body)["message"]
        except (ValueError, KeyError, TypeError):
            return str(self.status)
        return f"{self.status}, {message}"

    def data(self) -> Any:
        """Return the `data` of a response, or None if it has none."""
        try:
            return json.loads(self.body)["data"]
        except (ValueError, KeyError, TypeError):
            return None


def read(data: bytes) -> tuple[Answer, int] | None:
    """Return the first response and its size in bytes, or None if it is incomplete.

    Raises:
        NoAnswerError: the bytes are not HTTP, or the response has no length, which Relay's always have.
    """
    if not data.startswith(_BEGIN[: len(data)]):
        raise NoAnswerError(f"{NO_RELAY}: it sends {line_of(data)!r}")
    end = data.find(_HEAD_END)
    if end < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise NoAnswerError(f"{NO_RELAY}: the head of its response does not end")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    begin = end + len(_HEAD_END)
    status, length = first[len(_BEGIN) + 1 :].strip()[:3], headers.get("content-length", "0")
    if not status.isdecimal() or not length.isdecimal() or "transfer-encoding" in headers:
        raise NoAnswerError(f"{NO_RELAY}: it answers {line_of(data)!r}")
    size = begin + int(length)
    if len(data) < size:
        return None
    return Answer(int(status), data[begin:size], headers.get("connection", "").lower() == "close"), size


def line_of(data: bytes) -> str:
    """Return the first line of the bytes, for a message."""
    return data.partition(b"\n")[0][:MAX_SHOWN_BYTES].decode(errors="replace").rstrip()
