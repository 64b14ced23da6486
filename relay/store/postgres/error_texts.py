"""The meanings of PostgreSQL's errors, in general words, which any reader may see."""

from __future__ import annotations

from relay.store.errors import StoreError

_MEANINGS = {
    "password authentication failed": "the password is wrong",
    "no password supplied": "the server wants a password; set store.password_file or PGPASSWORD",
    "no pg_hba.conf entry": "pg_hba.conf of the server does not let this user in from here",
    'role "': "there is no such user on the server; create it with createuser",
    'database "': "there is no such database on the server; create it with createdb",
    "permission denied": "the user lacks a right; it must own the database, or may CREATE in its schema",
    "Connection refused": "no server listens at that address",
    "No such file or directory": "no server listens on that socket",
    "resolve host": "there is no host of that name",
    "translate host name": "there is no host of that name",
    "unreachable": "no network leads to the server",
    "No route to host": "no network leads to the server",
    "timeout expired": "the server does not answer",
    "timed out": "the server does not answer",
    "No space left": "the disk of the server is full",
    "could not extend file": "the disk of the server is full",
    "too many clients": "the server has no connection left",
    "remaining connection slots": "the server has no connection left",
    "starting up": "the server is starting",
    "shutting down": "the server is shutting down",
    "recovery mode": "the server is recovering",
    "not yet accepting connections": "the server is starting",
    "read-only": "the server is a standby, or read-only",
    "terminating connection": "the server ended the connection",
    "server closed the connection": "the server ended the connection",
    "could not receive data": "the connection to the server was lost",
    "could not send data": "the connection to the server was lost",
    "SSL SYSCALL error": "the connection to the server was lost",
    "SSL connection has been closed": "the server ended the connection",
    "consuming input failed": "the server did not answer in time, or the connection was lost",
    "certificate": "the certificate of the server was not accepted",
    "does not support SSL": "the server has no TLS, which sslmode requires",
    "prepared statement": "a pooler in transaction mode is in the way; connect to the server itself",
    'relation "': "its tables were changed by another program",
    'column "': "its tables were changed by another program",
}
"""A part of an error's text, and its meaning. The first that fits counts."""


def meaning(error: str) -> str:
    """Return what an error of PostgreSQL means."""
    return next((words for part, words in _MEANINGS.items() if part in error), "see the log")


_SERVES_NOBODY = (
    "Connection refused", "No such file or directory", "starting up", "shutting down", "recovery mode",
    "not yet accepting connections",
)  # fmt: skip
_UNCERTAIN = ("timeout", "timed out", "unreachable", "No route", "resolve", "translate")


def serves_no_client(error: str) -> bool:
    """Return whether an error proves that the server serves no other client either: it said so, or nothing listens there."""
    return any(part in error for part in _SERVES_NOBODY) and not any(part in error for part in _UNCERTAIN)


def unusable(error: Exception) -> StoreError:
    """Return an error that says why the database of store.url cannot be used. It repeats no URL, which may hold a password."""
    text = " ".join(str(error).split()) or type(error).__name__
    return StoreError(f"The database of store.url cannot be used: {meaning(text)}. PostgreSQL says: {text}")
