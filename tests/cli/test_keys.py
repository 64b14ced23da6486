"""`relay keys`: keys are created, listed, revoked and moved."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import configured, done, failed, process, relay


def stored(folder: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(folder / "relay.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.slow
def test_a_key_is_printed_alone_and_once(folder: Path) -> None:
    result = process("keys", "create", "--user", "ops")
    assert result.returncode == 0
    assert re.fullmatch(r"rk_live_[A-Za-z0-9_-]{32,}\n", result.stdout)
    secret = result.stdout.strip()
    ((id_, tier, scopes),) = stored(folder, "SELECT id, tier, scopes FROM api_keys")
    assert (tier, scopes) == ("free", "connect")
    assert f"Created {id_}: user ops, tier free, scopes connect." in result.stderr
    assert secret not in result.stderr + done("keys", "list") + done("keys", "list", "--json")
    assert secret.encode() not in (folder / "relay.db").read_bytes()


def test_a_key_of_another_kind(folder: Path) -> None:
    configured(folder, '[auth]\nkey_prefix = "ci"\n[store]\npath = "keys.db"')
    args = ["--user", "u", "--scope", "publish", "--scope", "admin", "--tier", "pro", "--test"]
    assert done("keys", "create", *args).startswith("ci_test_")
    (entry,) = json.loads(done("keys", "list", "--json"))
    assert (entry["userId"], entry["tier"], entry["scopes"]) == ("u", "pro", ["admin", "publish"])
    assert entry["revokedAt"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["createdAt"])
    assert (folder / "keys.db").exists()
    assert not (folder / "relay.db").exists()


def test_a_key_of_nobody_or_with_an_unknown_scope_is_refused(folder: Path) -> None:
    assert "Missing option '--user'" in failed("keys", "create", code=2)
    assert "is not a user id" in failed("keys", "create", "--user", "", code=2)
    assert "'everything' is not one of 'connect', 'publish', 'console', 'console:write', 'admin'" in failed(
        "keys", "create", "--user", "u", "--scope", "everything", code=2
    )
    assert not (folder / "relay.db").exists()


def test_the_table_of_keys() -> None:
    done("token", "alice")
    result = relay("keys", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no keys yet. Create one with: relay keys create --user USER" in result.stderr
    assert json.loads(done("keys", "list", "--json")) == []
    for user in ("alice", "bob the builder"):
        done("keys", "create", "--user", user)
    head, first, second = done("keys", "list").splitlines()
    assert head.split() == ["ID", "KEY", "USER", "TIER", "SCOPES", "CREATED", "REVOKED"]
    for line, user in ((first, "alice"), (second, "bob the builder")):
        assert line[head.index("USER") :].startswith(user)
        assert line[head.index("REVOKED") :] == "-"


@pytest.mark.slow
def test_a_terminal_that_cannot_show_a_user_gets_an_escape() -> None:
    done("keys", "create", "--user", "жук")
    result = process("keys", "list", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert r"\u0436\u0443\u043a" in result.stdout


def test_a_key_is_revoked_and_moved(folder: Path) -> None:
    done("keys", "create", "--user", "u")
    ((id_,),) = stored(folder, "SELECT id FROM api_keys")
    result = relay("keys", "tier", id_, "pro")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{id_} has the tier pro.\n")
    result = relay("keys", "revoke", id_)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{id_} is revoked.\n")
    (entry,) = json.loads(done("keys", "list", "--json"))
    assert entry["tier"] == "pro"
    assert entry["revokedAt"] >= entry["createdAt"]


def test_an_unknown_key_is_an_error() -> None:
    done("token", "alice")
    for args in (["revoke", "key_x"], ["tier", "key_x", "pro"]):
        assert "Error: no key has the ID key_x; `relay keys list` shows all keys" in failed("keys", *args)
    text = failed("keys", "revoke", "rk_live_abc")
    assert "not its ID" in text
    assert "rk_live_abc" not in text
    failed("keys", "tier", "key_x", "gold", code=2)
