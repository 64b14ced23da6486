"""Text in PostgreSQL, which stores every character but NUL: a reversible escape for that one."""

from __future__ import annotations

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper, Loader

_MARK = "\ufffe"
"""A code point that no text uses: Unicode keeps it free. It begins an escape."""


def escape(text: str) -> str:
    """Return the text without NUL. `unescape` returns it as it was."""
    if "\0" in text or _MARK in text:
        return text.replace(_MARK, f"{_MARK}1").replace("\0", f"{_MARK}0")
    return text


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    if _MARK in text:
        return text.replace(f"{_MARK}0", "\0").replace(f"{_MARK}1", _MARK)
    return text


class _TextDumper(Dumper):
    def dump(self, obj: str) -> bytes:
        return escape(obj).encode()


class _TextLoader(Loader):
    def load(self, data: Buffer) -> str:
        return unescape(bytes(data).decode())


def register(context: AdaptContext) -> None:
    """Make a connection escape the text that it sends, and unescape the text that it receives."""
    context.adapters.register_dumper(str, _TextDumper)
    context.adapters.register_loader("text", _TextLoader)
