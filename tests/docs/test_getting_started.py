"""The commands of the page on getting started, run in their order against a real server that is killed in between."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.docs.terminal import blocks, terminal

PAGE = Path(__file__).parents[2] / "relay/docs/getting-started.md"


@pytest.mark.slow(8)
async def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    install, serve, make_room, alice_joins, bob_joins, publish, read = blocks(PAGE, "sh")
    [chat] = blocks(PAGE, "python")
    assert "pip install" in install
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RELAY_SERVER__PORT": "0",
        "RELAY_LOG__FORMAT": "json",
    }
    async with terminal(serve, tmp_path, environment) as server:
        port = (await server.until(r'"url":"http://127\.0\.0\.1:(\d+)"'))[1]

        def here(text: str) -> str:
            # Another port than the page's, because that one may be taken; `relay publish` has it as its default.
            moved = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            return moved.replace("relay publish ", f"relay publish --url http://127.0.0.1:{port} ")

        (tmp_path / "chat.py").write_text(here(chat))
        async with terminal(here(make_room + alice_joins), tmp_path, environment) as alice:
            await alice.until('"channel":"market","symbols":')
            async with terminal(bob_joins, tmp_path, environment) as bob:
                await bob.until('"channel":"market","symbols":')
                await alice.until('"user:online",.*"data":{"userId":"bob"')
                await alice.type("Hello Bob")
                for user in (alice, bob):
                    await user.until('"chat:message",.*"offset":1,.*"userId":"alice","message":"Hello Bob"')
                async with terminal(here(publish), tmp_path, environment) as backend:
                    await backend.until(r'\[{"channel": "market:EUR/USD", "offset": 1, "epoch": "\w+"}\]')
                for user in (alice, bob):
                    await user.until('"market:price",.*"offset":1,"data":{"price":1.0875,"symbol":"EUR/USD"}')
        await server.kill()
    async with terminal(serve, tmp_path, {**environment, "RELAY_SERVER__PORT": port}) as server:
        await server.until('"message":"listening"')
        async with terminal(here(read), tmp_path, environment) as reader:
            answer = json.loads((await reader.until(r"\{.*\}"))[0])
    assert [message["message"] for message in answer["data"]] == ["Hello Bob"]
