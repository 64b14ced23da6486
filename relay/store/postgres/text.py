"""Text in PostgreSQL, which stores every character but NUL: a reversible escape for that one."""

from __future__ import annotations

from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper, Loader

from relay.store.parts import ESCAPE


def escape(text: str) -> str:
    """Return the text without NUL. `unescape` returns it as it was."""
    if "\0" in text or ESCAPE in text:
        return text.replace(ESCAPE, f"{ESCAPE}1").replace("\0", f"{ESCAPE}0")
    return text


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    if ESCAPE in text:
        return text.replace(f"{ESCAPE}0", "\0").replace(f"{ESCAPE}1", ESCAPE)
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
