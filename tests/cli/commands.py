"""Commands as a test runs them: in its own process, with what they printed, or in another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
from click.testing import CliRunner, Result

from relay.cli.main import main

SECRET = "s" * 32


def relay(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, args, input=stdin, prog_name="relay", catch_exceptions=False)


def done(*args: str, stdin: str | None = None) -> str:
    result = relay(*args, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def failed(*args: str, code: int = 1, stdin: str | None = None) -> str:
    result = relay(*args, stdin=stdin)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def process(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environ},
    )


def configured(folder: Path, text: str) -> None:
    (folder / "relay.toml").write_text(text)


def claims(text: str, secret: str = SECRET, **options: Any) -> dict[str, Any]:
    token = text.removesuffix("\n")
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    return jwt.decode(token, secret, algorithms=["HS256"], **options)
