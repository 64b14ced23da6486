"""What tests do to a running server through its API: create a room, subscribe to it, publish."""

from __future__ import annotations

from typing import Any

from tests.clients import Client
from tests.http_client import http_client
from tests.running import bearer


async def make_room(address: str, owner: str = "alice", **fields: Any) -> str:
    """Create a room; returns its id."""
    async with http_client(address) as http:
        answer = await http.post("/v1/chatrooms", json={"name": "Room", **fields}, headers=bearer(owner))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["id"])


async def publish(address: str, body: Any) -> Any:
    """Publish as an admin; returns the answer's data."""
    async with http_client(address) as http:
        answer = await http.post("/v1/publish", json=body, headers=bearer("backend", admin=True))
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def join(client: Client, room: str, **fields: Any) -> dict[str, Any]:
    """Subscribe to a room in the `live` dialect; returns the answer's data."""
    answer = await client.ask(type="subscribe", channel="chatroom", chatroomId=room, **fields)
    assert answer["type"] == "subscribed", answer
    data: dict[str, Any] = answer["data"]
    return data
