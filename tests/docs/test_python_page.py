"""The page on the Python client: its programs do what it says, and it names every part of the client."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from relay.client import python
from tests.docs.terminal import blocks, terminal
from tests.http_client import http_client
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "relay/docs/python.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.slow(8)
async def test_the_programs_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    """A backend publishes, on asyncio; a bot reads, on Trio; another bot answers in a room."""
    [configuration] = blocks(PAGE, "toml")
    serve, publish, read = blocks(PAGE, "sh")
    _, publish_program, bot, echo = blocks(PAGE, "python")
    (tmp_path / "relay.toml").write_text(configuration)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "RELAY_SERVER__PORT": "0",
        "RELAY_LOG__FORMAT": "json",
    }
    async with terminal(serve, tmp_path, environment) as server:
        port = (await server.until(r'"url":"http://127\.0\.0\.1:(\d+)"'))[1]
        for name, text in (("publish.py", publish_program), ("bot.py", bot), ("echo.py", echo)):
            (tmp_path / name).write_text(text.replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
        async with terminal(publish, tmp_path, environment) as backend:
            await backend.until(r"orders:42 Position\(offset=1, ")
            await backend.until(r"Receipt\(channel='orders:42', position=Position\(offset=3, ")
        async with terminal(read, tmp_path, environment) as reader:
            await reader.until(r"1 {'state': 'paid'}\n2 {'state': 'packed'}\n3 {'state': 'sent'}\n")
            async with terminal(
                publish, tmp_path, environment
            ) as backend:  # another API key, so nothing is a repetition
                await backend.until(r"position=Position\(offset=6, ")
            await reader.until(r"4 {'state': 'paid'}\n5 {'state': 'packed'}\n6 {'state': 'sent'}\n")
        async with terminal("python echo.py", tmp_path, environment) as bot_in_room:
            room = (await bot_in_room.until(r"chatroom:(\S+)"))[1]
            command = ["relay", "token", "bob", "--config", "relay.toml"]
            done = await trio.run_process(command, cwd=tmp_path, env=environment, capture_stdout=True)
            headers = {"Authorization": f"Bearer {done.stdout.decode().strip()}"}
            async with http_client(f"127.0.0.1:{port}", headers=headers) as http:
                path = f"/v1/chatrooms/{room}/messages"
                assert (await http.post(path, json={"message": "Hi"})).status_code == 201

                async def answered() -> bool:
                    data = (await http.get(path)).json()["data"]
                    return [one["message"] for one in data] == ["You said: Hi", "Hi"]

                await until(answered)


def members(cls: type[Any]) -> Iterator[str]:
    """Yield the public names of a class, with the parameters of its constructor."""
    if attrs.has(cls):
        yield from (field.name for field in attrs.fields(cls) if not field.name.startswith("_"))
    elif cls.__init__ is not object.__init__ and not issubclass(cls, Exception):
        yield from (name for name in inspect.signature(cls).parameters if name not in ("options", "shared"))
    yield from (name for name in vars(cls) if not name.startswith("_"))


USED = (python.Backend, python.Client, python.Room, python.Notifications, python.Draft, python.Receipt)
READ = (python.Gap, python.History, python.Presence, python.Publication, python.Signal, python.StateChange)


@pytest.mark.parametrize("cls", [*USED, *READ], ids=lambda cls: cls.__name__)
def test_the_page_names_every_member(cls: type[Any]) -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", TEXT))
    assert cls.__name__ in TEXT
    assert [name for name in members(cls) if not re.search(rf"\b{name}\b", code)] == []


def test_the_page_names_every_option_of_a_subscription() -> None:
    options = set(inspect.signature(python.Client.subscribe).parameters) - {"self", "channel"}
    [table] = [section for section in TEXT.split("\n## ") if section.startswith("Subscriptions\n")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == options


def test_the_client_imports_no_server() -> None:
    """A bot pays for the client alone."""
    program = (
        "import sys, relay.client.python; print(*{name.split('.')[1] for name in sys.modules if name[:6] == 'relay.'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["client"]
