"""Every role against every answer of a backend hook, in the namespaces that have one. The tables are total."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import trio

from relay.config.namespaces import NamespaceConfig
from tests.backend import Received, Reply, result
from tests.hooks.hooked import hooked
from tests.rights.test_namespaces_on_the_wire import World, answered, client_of, token, tokens
from tests.rights.world import table

# The channel is <rule>-<answer>:owner, with roles as for namespaces without a hook.
SUBSCRIBE = table("""
              anonymous          user                 owner                granted  token  elsewhere            channels  admin
owner-yes     not_authenticated  ok                   ok                   ok       ok     ok                   ok        ok
owner-no      not_authenticated  backend_refused      ok                   ok       ok     backend_refused      ok        ok
owner-500     not_authenticated  backend_unreachable  ok                   ok       ok     backend_unreachable  ok        ok
granted-yes   not_authenticated  ok                   ok                   ok       ok     ok                   ok        ok
granted-no    not_authenticated  backend_refused      backend_refused      ok       ok     backend_refused      ok        ok
granted-500   not_authenticated  backend_unreachable  backend_unreachable  ok       ok     backend_unreachable  ok        ok
""")
# For clients; the hook decides in place of the rule, so each rule has the same row.
PUBLISH = table("""
      anonymous          user                 owner                granted              admin
yes   not_authenticated  ok                   ok                   ok                   ok
no    not_authenticated  backend_refused      backend_refused      backend_refused      ok
500   not_authenticated  backend_unreachable  backend_unreachable  backend_unreachable  ok
""")
RULES = get_args(get_type_hints(NamespaceConfig)["publish"])
ANSWERS: dict[str, Reply] = {
    "yes": result({"result": {}}),
    "no": result({"error": {"message": "no"}}),
    "500": Reply(500),
}


async def decide(request: Received) -> Reply:
    """Answer by the name of the namespace."""
    namespace, _, _ = request.json["channel"].partition(":")
    return ANSWERS[namespace.rpartition("-")[2]]


def settings() -> dict[str, Any]:
    """Return a namespace for each row."""
    found: dict[str, Any] = {"namespaces__open__subscribe": "anyone", "auth__connect_hook": ""}
    for name in SUBSCRIBE:
        found |= {
            f"namespaces__{name}__subscribe": name.partition("-")[0],
            f"namespaces__{name}__subscribe_hook": "backend",
        }
    for rule in RULES:
        for answer in PUBLISH:
            name = f"p-{rule}-{answer}"
            found |= {f"namespaces__{name}__publish": rule, f"namespaces__{name}__publish_hook": "backend"}
    return found


@pytest.mark.slow
async def test_every_role_against_every_answer_for_reading(tmp_path: Path) -> None:
    """Over `live` to subscribe, and to read the history, which is the same right."""
    wrong = []
    with trio.fail_after(60):
        async with hooked(tmp_path, decide, **settings()) as here:
            world = World(here.address, {})
            held = tokens([f"{name}:owner" for name in SUBSCRIBE])
            for name, row in SUBSCRIBE.items():
                channel = f"{name}:owner"
                for role, expected in row.items():
                    if role in ("forged", "expired", "none", "revoked", "nobody"):
                        continue
                    more = {"token": token("token", channel=channel)} if role == "token" else {}
                    async with client_of(world, held.get(role)) as client:
                        if (
                            role != "token"
                            and (got := await answered(client, type="history", channel=channel)) != expected
                        ):
                            wrong.append(f"history {name}: {role} was answered {got}, not {expected}")
                        got = await answered(client, type="subscribe", channel=channel, **more)
                        if got != expected:
                            wrong.append(f"subscribe {name}: {role} was answered {got}, not {expected}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
async def test_every_role_against_every_answer_for_publishing(tmp_path: Path) -> None:
    """Whatever the rule of the namespace."""
    wrong = []
    with trio.fail_after(60):
        async with hooked(tmp_path, decide, **settings()) as here:
            world, held = World(here.address, {}), tokens(["open:1"])
            for rule in RULES:
                for answer, row in PUBLISH.items():
                    for role, expected in row.items():
                        async with client_of(world, held.get(role)) as client:
                            got = await answered(client, type="publish", channel=f"p-{rule}-{answer}:1", data=role)
                            if got != expected:
                                wrong.append(f"{rule}, {answer}: {role} was answered {got}, not {expected}")
    assert not wrong, "\n".join(wrong)
