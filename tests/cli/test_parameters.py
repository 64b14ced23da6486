"""Arguments of commands: durations and user ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import SECRET, claims, configured, done, failed


@pytest.mark.parametrize(("typed", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800)])
def test_how_long_a_token_is_valid(folder: Path, typed: str, seconds: int) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    found = claims(done("token", "u", "--expires", typed))
    assert found["exp"] - found["iat"] == seconds


@pytest.mark.parametrize("typed", ["", "1", "0s", "-1h", "1.5h", "1w", "9999d", "99999999999999s"])
def test_what_is_no_duration(typed: str) -> None:
    assert "is not a duration; use one such as 90s, 15m, 1h or 7d" in failed("token", "u", f"--expires={typed}", code=2)


@pytest.mark.parametrize("user", ["", " ", "a\nb", "x" * 257])
def test_what_is_no_user(user: str) -> None:
    assert "is not a user id; use 1 to 256 printable characters" in failed("token", user, code=2)
