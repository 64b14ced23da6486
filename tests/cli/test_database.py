"""Commands that use the database: one that is missing, busy or full."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest
import trio

from relay.store.api_keys import list_all
from relay.store.meta import get_or_create
from relay.store.sqlite.database import running_database
from tests.cli.commands import claims, done, failed, relay


def test_a_database_that_there_is_not(folder: Path) -> None:
    """To make one is said, for it is hardly the one that a server uses; to list what is in it makes none."""
    missing = f"the database {folder / 'relay.db'} does not exist. Run this in the folder of the server"
    for args in (["list"], ["revoke", "key_x"], ["tier", "key_x", "pro"]):
        assert missing in failed("keys", *args)
    assert not (folder / "relay.db").exists()
    for args in (["keys", "create", "--user", "u"], ["token", "u"]):
        result = relay(*args)
        assert f"The database {folder / 'relay.db'} did not exist, so this command created it." in result.stderr
        assert len(result.stdout.splitlines()) == 1
        assert "was made" not in relay(*args).stderr
        (folder / "relay.db").unlink()


@pytest.mark.slow
async def test_keys_and_tokens_can_be_made_while_the_database_is_in_use(folder: Path) -> None:
    with trio.fail_after(60):
        async with running_database(folder / "relay.db") as database:
            secret = await database.write(lambda connection: get_or_create(connection, "jwt_secret"))
            for args in (["keys", "create", "--user", "u"], ["token", "u"]):
                command = [sys.executable, "-m", "relay", *args]
                result = await trio.run_process(command, capture_stdout=True)
            assert claims(result.stdout.decode(), secret)["sub"] == "u"
            (key,) = await database.read(list_all)
            assert key.user_id == "u"


def test_a_database_that_cannot_be_used_is_one_clear_sentence(folder: Path) -> None:
    (folder / "relay.db").write_text("x" * 5000)
    for args in (["keys", "list"], ["token", "u"]):
        text = failed(*args)
        assert text.startswith("Error: ")
        assert "relay.db is not an SQLite database" in text


def test_a_database_without_room_is_one_clear_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("token", "alice")

    def full(*args: object, **kwargs: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("relay.store.api_keys.create", full)
    monkeypatch.setattr("relay.store.console_sessions.add", full)
    for args in (("keys", "create", "--user", "u"), ("console",)):
        text = failed(*args)
        cure = "Free space on its disk."
        assert text == f"Error: {folder / 'relay.db'} cannot be written: database or disk is full. {cure}\n"
