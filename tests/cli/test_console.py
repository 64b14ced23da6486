"""`relay console`: the link that it prints. The console itself is tested with a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relay.auth.console_sessions import LINK_LIFETIME
from tests.cli.commands import configured, failed, relay


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", r"\[::1\]"), ("10.1.2.3", "10.1.2.3")])
def test_the_link_leads_to_the_local_server(folder: Path, host: str, shown: str) -> None:
    configured(folder, f'[server]\nhost = "{host}"\nport = 9000\n')
    failed("console")
    relay("keys", "create", "--user", "ops")
    result = relay("console")
    assert re.fullmatch(rf"http://{shown}:9000/console#link=[\w-]{{43}}\n", result.stdout)
    assert f"within {LINK_LIFETIME:g} seconds" in result.stderr
