"""The page on webhooks: its receivers verify what a real server sends, and it names every event and every option."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import attrs
import pytest

from relay.config.webhooks import EVENTS, WEBHOOK_TEST, WebhookConfig
from tests.clients import live
from tests.docs.terminal import blocks, terminal
from tests.hooks.receiver import SECRET
from tests.http_client import http_client
from tests.running import config_for, running

PAGE = Path(__file__).parents[2] / "relay/docs/webhooks.md"
RECEIVERS = {
    "python": "python receiver.py",
    "js": "node receiver.mjs",
    **({"php": "php -S 127.0.0.1:3000 receiver.php"} if shutil.which("php") else {}),
}
"""How each receiver is started. PHP runs where it is installed."""


@pytest.mark.slow
@pytest.mark.parametrize("language", RECEIVERS)
async def test_a_receiver_verifies_what_relay_sends(tmp_path: Path, language: str) -> None:
    """It prints an event of a real server, and refuses a request that is signed wrongly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    [receiver] = blocks(PAGE, language)
    command = RECEIVERS[language]
    (tmp_path / command.split()[-1]).write_text(receiver.replace("3000", str(port)))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WEBHOOK_SECRET": SECRET,
    }
    url = f"http://127.0.0.1:{port}/"
    options = {"url": url, "secret": SECRET, "allow_private": True, "retry_interval": 0.05}
    settings = {f"webhooks.backend.{name}": value for name, value in options.items()}
    async with (
        terminal(command.replace("3000", str(port)), tmp_path, environment) as printed,
        running(config_for(tmp_path, settings)) as (_, address),
        live(address, "alice"),
    ):
        await printed.until(r'user\.connected \{"userId": ?"alice"')
        async with http_client() as http:
            forged = {"webhook-id": "evt_1", "webhook-timestamp": "1795000001", "webhook-signature": "v1,AAAA"}
            assert (await http.post(url, content=b"{}", headers=forged)).status_code == 401


def test_the_page_names_every_event_and_every_option_that_needs_words() -> None:
    """Each type has a row; each option of a webhook is in the page of the configuration or explained here."""
    page = PAGE.read_text(encoding="utf-8")
    for type_ in (*EVENTS, WEBHOOK_TEST):
        assert f"\n| `{type_}` | " in page, type_
    for field in attrs.fields(WebhookConfig):
        configuration = PAGE.with_name("configuration.md").read_text(encoding="utf-8")
        assert f"\n### webhooks.backend.{field.name}\n" in configuration, field.name
