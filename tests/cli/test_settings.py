"""How commands load the configuration and report what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import configured, failed, process


def test_check_reports_every_error_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(folder, "[server]\nport = 70000\nprot = 1\n[auth]\njwt_secret = 'hunter2'")
    monkeypatch.setenv("RELAY_LOG__LEVEL", "loud")
    text = failed("check")
    assert "Error: the configuration has 4 problems:" in text
    assert "  server.port: 70000 is not a port; use 0 to 65535\n" in text
    assert "  server.prot: is not a setting; did you mean server.port?\n" in text
    assert "  auth.jwt_secret: is only 7 bytes long; use at least 32" in text
    assert "(set by RELAY_LOG__LEVEL)" in text
    assert "hunter2" not in text


@pytest.mark.slow
def test_a_missing_file_is_one_clear_sentence() -> None:
    for command in ("check", "serve", "keys list", "token u"):
        result = process(*command.split(), "--config", "missing.toml")
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == (
            "Error: the configuration has a problem:\n"
            "  missing.toml: does not exist; create it with: relay init missing.toml\n"
        )


@pytest.mark.slow
def test_the_environment_may_name_the_file(folder: Path) -> None:
    (folder / "other.toml").write_text("[server]\nport = 1234")
    assert "http://127.0.0.1:1234" in process("check", RELAY_CONFIG="other.toml").stdout
