"""Commands on a PostgreSQL database: `relay store`, and the others with `store.url`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.store import postgres
from relay.store.location import require_psycopg
from tests.cli.commands import done, failed
from tests.postgres import PostgresServer, shared_server


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database, which the environment names."""
    server: PostgresServer = shared_server()
    with server.database() as name:
        monkeypatch.setenv("RELAY_STORE__URL", server.url(name, password="hidden"))
        yield server.url(name, password="hidden")


def test_check_names_the_database_and_no_password(url: str) -> None:
    said = done("check")
    assert "Database: PostgreSQL " in said
    assert "(the first start creates its tables)" in said
    assert "hidden" not in said


@pytest.mark.slow
def test_keys_and_tokens_are_those_of_the_database(url: str, folder: Path) -> None:
    secret = done("keys", "create", "--user", "ops")
    assert "hidden" not in secret
    assert "ops" in done("keys", "list")
    assert done("token", "alice").count(".") == 2
    assert list(folder.iterdir()) == [], "no file is made beside it"
    assert "ok    offsets" in done("check", "--database")
    assert "is valid" in done("check", f"--database={url}")


@pytest.mark.slow
def test_a_copy_there_and_back(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_STORE__URL")
    done("keys", "create", "--user", "ops")
    before = done("keys", "list", "--json")
    done("token", "alice")
    assert "Copied " in done("store", "copy", "--from", "relay.db", "--to", url)
    assert "Copied " in done("store", "copy", "--from", url, "--to", "back.db")
    monkeypatch.setenv("RELAY_STORE__PATH", str(folder / "back.db"))
    assert done("keys", "list", "--json") == before
    assert "not empty" in failed("store", "copy", "--from", "relay.db", "--to", url)
    assert "no database" in failed("store", "copy", "--from", "none.db", "--to", url)


@pytest.mark.slow
def test_epochs_are_renewed(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("keys", "list")
    assert done("store", "renew-epochs").strip() == "Every channel has a new epoch."
    monkeypatch.delenv("RELAY_STORE__URL")
    done("keys", "create", "--user", "ops")
    assert done("store", "renew-epochs").strip() == "The next start gives every channel a new epoch."


def test_a_backup_is_the_databases_own(url: str) -> None:
    assert "back it up with pg_dump" in failed("backup", "x.db")


def test_both_settings_are_refused(url: str, folder: Path) -> None:
    (folder / "relay.toml").write_text('[store]\npath = "relay.db"\n')
    said = failed("check")
    assert "store.url: and store.path are both set; remove one of them (set by RELAY_STORE__URL)" in said
    assert "hidden" not in said


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_STORE__URL", "postgresql://relay:hidden@127.0.0.1:1/relay")
    for command in (("check",), ("check", "--database"), ("keys", "list"), ("serve",), ("store", "renew-epochs")):
        said = failed(*command)
        assert "no server listens at that address" in said
        assert "hidden" not in said


@pytest.mark.parametrize(
    ("value", "words"),
    [("mysql://localhost/relay", 'begins with "mysql"'), ("postgresql://localhost:x/relay", "is not a URL")],
)
def test_a_url_of_another_database(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("RELAY_STORE__URL", value)
    assert words in failed("check")


def test_without_the_library(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.postgres", postgres)  # what is imported below replaces it
    for name in [name for name in sys.modules if name.startswith(("psycopg", "relay.store.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = failed("check")
    assert 'Install it: pip install "psycopg[binary]"' in said
    monkeypatch.undo()
    require_psycopg()
