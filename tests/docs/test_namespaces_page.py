"""The private order stream of the page on namespaces, run as it is written: tokens of each backend, client and publication."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.terminal import blocks, terminal

PAGE = Path(__file__).parents[2] / "relay/docs/namespaces.md"
LANGUAGES = {"python": "python", "js": "node", **({"php": "php"} if shutil.which("php") else {})}
"""The program that runs each backend. PHP runs where it is installed."""


@pytest.mark.slow
async def test_the_order_stream_of_the_page(tmp_path: Path) -> None:
    """Every token opens the order that it names and no other; the publication comes, and again to a client that starts late."""
    configuration = blocks(PAGE, "toml")[-1]
    check_and_serve, start, publish = blocks(PAGE, "sh")[-3:]
    [python] = blocks(PAGE, "python")
    node, client = blocks(PAGE, "js")
    [php] = blocks(PAGE, "php")
    for name, text in (
        ("relay.toml", configuration),
        ("make_token.py", python),
        ("make_token.mjs", node),
        ("make_token.php", php),
    ):
        (tmp_path / name).write_text(text)
    check, serve = check_and_serve.strip().splitlines()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RELAY_SERVER__PORT": "0",
        "RELAY_LOG__FORMAT": "json",
        "NODE_OPTIONS": "--experimental-websocket --no-warnings",
    }
    async with terminal(check, tmp_path, environment) as checked:
        await checked.until("orders")
    async with terminal(serve, tmp_path, environment) as server:
        port = (await server.until(r'"url":"http://127\.0\.0\.1:(\d+)"'))[1]
        (tmp_path / "orders.mjs").write_text(client.replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
        published = False
        for language, program in LANGUAGES.items():
            suffix = {"python": "py", "js": "mjs", "php": "php"}[language]
            command = start.replace("python make_token.py", f"{program} make_token.{suffix}")
            async with terminal(command, tmp_path, environment) as reader:
                await reader.until('"subscribed","data":{"channel":"orders:42"')
                await reader.until('"reason":"no_grant"')
                if not published:
                    here = publish.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
                    async with terminal(here, tmp_path, environment) as backend:
                        await backend.until('"offset":1')
                    published = True
                expected = blocks(PAGE, "text")[-1].strip()
                await reader.until(re.escape(expected))
