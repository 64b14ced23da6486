"""How a database is named: a file is SQLite's, a URL is PostgreSQL's."""

from __future__ import annotations

from relay.store.errors import StoreError


def is_url(name: str) -> bool:
    """Return whether a database is named by its URL."""
    return name.startswith(("postgresql://", "postgres://"))


def require_psycopg() -> None:
    """Check that PostgreSQL can be used at all.

    Raises:
        StoreError: psycopg is not installed; the message says how to install it.
    """
    try:
        import relay.store.postgres.connection  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f'store.url needs psycopg, which cannot be imported ({error}). Install it: pip install "psycopg[binary]"'
        ) from None
