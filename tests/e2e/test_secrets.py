"""No secret that a server is given comes out of it again: neither in its log, at whatever level, nor in an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from relay.auth.verifier import mint
from relay.ground.clock import Clock
from relay.transports.stream import MAX_HEAD_BYTES
from tests.api.probe import create_key
from tests.api.raw import raw_connection
from tests.clients import connect
from tests.http_client import http_client
from tests.running import SECRET, RelayProcess, relay_process, token

pytestmark = pytest.mark.slow

PREVIOUS = "the-secret-before-that-one-which-nobody-is-to-see-either"
FOREIGN = "a-secret-of-somebody-else-with-which-a-token-was-signed"
PASSAGES = ("words-of-a-message", "words-of-a-notification", "words-of-a-publication")
CHUNK = 16
"""Characters of a secret that are as bad as all of it."""
TOO_MANY = MAX_HEAD_BYTES // 100
"""Tokens in one header that are too long for a head: none is as short as 100 characters."""


class Secrets:
    """What was given to the server, and what it answered."""

    def __init__(self) -> None:
        self.given = [SECRET, PREVIOUS, FOREIGN, *PASSAGES]
        self.answers: list[str] = []

    def add(self, secret: str) -> str:
        """Take note of a secret."""
        self.given.append(secret)
        return secret

    def in_text(self, text: str) -> set[str]:
        """Return the pieces of secrets in a text. A token's head is no secret: it is the same in every one."""
        pieces = {
            part[at : at + CHUNK]
            for secret in self.given
            for part in (secret.split(".")[1:] if secret.startswith("eyJ") else [secret.removeprefix("rk_test_")])
            for at in range(0, max(1, len(part) - CHUNK + 1), CHUNK)
        }
        return {piece for piece in pieces if piece in text}


async def use_rest(server: RelayProcess, secrets: Secrets, tokens: list[str], keys: list[str]) -> None:
    """Use every token and key in every way that there is over HTTP, also in wrong ones."""
    async with http_client(server.address) as http:
        headers: list[dict[str, str]] = [{"Authorization": f"Bearer {one}"} for one in tokens]
        headers += [{"X-API-Key": one} for one in keys] + [{"Authorization": f"Basic {one}"} for one in tokens]
        for header in headers:
            body = {"channel": "trades", "data": {"amount": 1, "note": PASSAGES[2]}}
            for answer in (
                await http.get("/v1/chatrooms", headers=header),
                await http.post("/v1/publish", json=body, headers=header),
                await http.post("/v1/publish", content=b"{" + PASSAGES[2].encode(), headers=header),
                await http.post("/v1/chatrooms", json={"name": "R", "id": 7}, headers=header),
                await http.post(
                    "/v1/notifications/send", json={"userId": "u", "title": "T", "message": PASSAGES[1]}, headers=header
                ),
            ):
                secrets.answers.append(answer.text)
        for one in (*tokens, *keys):
            for path in ("/v1/chatrooms", "/nowhere", "/api/ws", "/socket.io/"):
                secrets.answers.append((await http.get(path, params={"token": one, "apiKey": one})).text)
    for one in tokens:
        for line in (f"Authorization: Bearer {one}\x00", f"Authorization Bearer {one}", f"X: {one * TOO_MANY}"):
            async with raw_connection(server.address) as raw:
                await raw.head("GET", f"/v1/chatrooms?token={one}", line)
                secrets.answers.append((await raw.ended()).decode())


async def use_websockets(server: RelayProcess, secrets: Secrets, tokens: list[str], keys: list[str]) -> None:
    """The same over every WebSocket."""
    for one in (tokens[0], tokens[-1], keys[0], keys[-1]):
        for frames in (
            [json.dumps({"type": "auth", "token": one})],
            [f'{{"type": "auth", "token": "{one}"'],
            [json.dumps({"type": "auth", "token": [one]})],
            [json.dumps({"type": "auth", "token": one}).encode()],
            [json.dumps({"type": "auth", "token": tokens[0]}), json.dumps({"type": "subscribe", "channel": one})],
        ):
            await say(server, secrets, "/v1/live", frames)
        await say(server, secrets, f"/api/ws?token={one}", ['{"type": "ping"}', one])
        await say(server, secrets, f"/api/ws?token={one}&token=x", [])
        connect_packet = "40/api-ws," + json.dumps({"apiKey": one})
        await say(server, secrets, "/socket.io/?EIO=4&transport=websocket", [connect_packet])
        await say(server, secrets, "/socket.io/?EIO=4&transport=websocket", [f'40/api-ws,{{"apiKey": "{one}"'])
        async with http_client(server.address) as http:
            opened = await http.get("/socket.io/?EIO=4&transport=polling")
            sid = json.loads(opened.text[1:])["sid"]
            target = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
            secrets.answers.append((await http.post(target, content=connect_packet)).text)
            secrets.answers.append((await http.get(target)).text)


async def say(server: RelayProcess, secrets: Secrets, path: str, frames: list[str] | list[bytes]) -> None:
    """Send frames, and note what comes back in a short while."""
    async with open_websocket_url(f"ws://{server.address}{path}") as connection:
        try:
            for frame in frames:
                await connection.send_message(frame)
            with trio.move_on_after(0.02):
                while True:
                    secrets.answers.append(str(await connection.get_message()))
        except ConnectionClosed as closed:
            assert closed.reason is not None
            secrets.answers.append(str(closed.reason.reason))
        await connection.aclose()
        await connection._stream.aclose()


async def chat(server: RelayProcess, one: str) -> None:
    """Say something in a room."""
    async with http_client(server.address, headers={"Authorization": f"Bearer {one}"}) as http:
        room = (await http.post("/v1/chatrooms", json={"name": "R"})).json()["data"]["id"]
        answer = await http.post(f"/v1/chatrooms/{room}/messages", json={"message": PASSAGES[0]})
        assert answer.json()["data"]["message"] == PASSAGES[0]
    async with connect(server.address, "/v1/live") as client:
        assert (await client.ask(type="auth", token=one))["type"] == "auth:success"
        await client.send(type="chat:send", chatroomId=room, message=PASSAGES[0])
        await client.until("chat:message")


@asynccontextmanager
async def talkative(folder: Path) -> AsyncIterator[RelayProcess]:
    """Run a server that logs all that it ever does."""
    settings = (
        f'jwt_secret_previous = "{PREVIOUS}"\n[limits]\nauth_failures_per_minute = 100000\n[log]\nlevel = "debug"\n'
    )
    async with relay_process(folder, settings) as server:
        yield server


async def test_no_secret_comes_out_again(tmp_path: Path) -> None:
    secrets = Secrets()
    with trio.fail_after(60):
        async with talkative(tmp_path) as server:
            scopes = ("publish", "admin", "connect")
            keys = [secrets.add((await create_key(tmp_path, scope, tier="pro"))[1]) for scope in scopes]
            now = Clock().now()
            tokens = [
                secrets.add(one)
                for one in (
                    token("alice", admin=True),
                    mint(PREVIOUS, user_id="bob", now=now, expires_in=600.0),
                    mint(FOREIGN, user_id="eve", now=now, expires_in=600.0),
                    token("carol", expires_in=-1.0),
                )
            ]
            keys.append(secrets.add("rk_test_0123456789abcdefghijklmnopqrstuv-a-key-that-there-is-not"))
            await chat(server, tokens[0])
            await use_rest(server, secrets, tokens, keys)
            await use_websockets(server, secrets, tokens, keys)
        log = server.log_text()
    assert "session opened" in log
    assert "authentication refused" in log
    assert "Traceback" not in log
    assert not secrets.in_text(log)
    said = "\n".join(secrets.answers)
    assert not {piece for piece in secrets.in_text(said) if not piece.startswith("words-of-")}
    for words in ("Traceback", "Error(", 'File "', ".py", "sqlite", "Exception"):
        assert words not in said, words
