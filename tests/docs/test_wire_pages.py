"""The pages on the wire, held to the code: each frame type, error, close code, route and channel has its place in its page.

The registers of the code say the words that a page must name: enums, tables, the cases of the decoders and the constants
of the encoders. A failure lists what is missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from quart import Quart

from relay.access.publishing import _FIELDS
from relay.cli.main import main
from relay.dialects.channels import protocol as channels
from relay.dialects.live import protocol as live
from relay.dialects.live import routes
from relay.dialects.socketio import engineio, server
from relay.dialects.socketio import protocol as socketio
from relay.dialects.sse import protocol as sse
from relay.dialects.sse import routes as sse_routes
from relay.ground.errors import Code, Reason
from relay.model.namespaces import Namespace
from relay.transports import event_stream
from relay.transports.http_errors import STATUS
from tests.docs.wire_tables import (
    KINDS,
    OF_USERS,
    SHARED,
    arguments,
    cases,
    channels_answers,
    channels_sent,
    channels_words,
    feeds_types,
    function,
    live_sent,
    live_types,
    reasons,
    socketio_sent,
    socketio_taken,
    tree,
    trees,
)

RELAY = Path(__file__).parents[2] / "relay"
PAGES = (
    "getting-started",
    "javascript",
    "python",
    "publishing",
    "resume",
    "live",
    "channels",
    "feeds",
    "socketio",
    "sse",
    "errors",
)
PARAMETER = re.compile(r"<(?:path:)?(\w+)>")
"""A part of a route that stands for an id; the pages write it in braces."""


def page(topic: str) -> str:
    return (RELAY / "docs" / f"{topic}.md").read_text(encoding="utf-8")


def missing(topic: str, wanted: Iterable[str]) -> list[str]:
    """Return those of `wanted` that the page does not contain. There must be some to look for."""
    text = page(topic)
    words = sorted(set(wanted))
    assert words
    return [word for word in words if word not in text]


def quoted(words: Iterable[str]) -> list[str]:
    return [f"`{word}`" for word in words]


def text_of(reason: Reason) -> str:
    return f"`{reason.text}`" if reason.text else "(none)"


# -- frames ------------------------------------------------------------------------------------------------------------


def test_live_names_each_frame_that_a_client_may_send() -> None:
    types = live_sent()
    assert {"auth", "chat:send"} <= types
    assert missing("live", (f"| `{type_}` |" for type_ in types)) == []
    assert missing("live", (f"| `{word}` |" for word in cases(function(live, "_target")))) == []


def test_live_names_each_frame_that_the_server_sends() -> None:
    types = live_types()
    assert {"auth:success", "subscribed"} <= types.answers
    assert {"chat:typing", "chatroom:deleted"} <= types.signals
    assert types.presence == {"user:online", "user:offline"}
    assert (
        missing(
            "live", (f"| `{type_}` |" for type_ in types.answers | types.signals | types.presence | types.published)
        )
        == []
    )


def test_channels_names_each_frame_both_ways() -> None:
    sent, answers, words = channels_sent(), channels_answers(), channels_words()
    assert {"subscribe", "ping"} <= sent
    assert {"subscribed", "error"} <= answers
    assert {"chat_message", "notification"} <= words
    assert missing("channels", (f"| `{type_}` |" for type_ in sent | answers | words)) == []
    assert missing("channels", [f"{name}:<id>" for name in (channels.CONVERSATION, "user", *KINDS.entities)]) == []
    assert missing("channels", quoted(channels.LEVELS.values())) == []


def test_feeds_names_each_frame() -> None:
    types = feeds_types()
    assert types == {"init", "trade", "chart_update", "price_update"}
    assert missing("feeds", (f"| `{type_}` |" for type_ in types)) == []


def test_socketio_names_each_packet() -> None:
    assert missing("socketio", (f"| `{type_:d}` {type_.name} |" for type_ in engineio.PacketType)) == []
    assert missing("socketio", (f"| `{type_:d}` {type_.name} |" for type_ in socketio.PacketType)) == []
    assert missing("socketio", quoted(socketio.RESERVED_EVENTS)) == []


def test_socketio_names_each_event_both_ways() -> None:
    sent, taken = socketio_sent(), socketio_taken()
    assert sent == ["price-update", "initial-prices"]
    assert taken == {"subscribe", "unsubscribe"}
    assert missing("socketio", (f"| `{event}` |" for event in {*sent, *taken})) == []


def test_socketio_names_each_refusal() -> None:
    messages = arguments(trees("dialects/socketio"), "Refused", 0)
    assert "Authentication failed" in messages
    assert missing("socketio", (f"| `{message}` |" for message in messages)) == []
    refusals = [value for value in vars(server).values() if isinstance(value, tuple) and isinstance(value[0], int)]
    assert server.UNKNOWN_SESSION in refusals
    assert missing("socketio", (f"| {code} | `{message}` |" for code, message in refusals)) == []


def test_sse_names_each_event_each_field_of_the_query_and_each_path() -> None:
    sources = tree(sse), tree(event_stream)
    events = {
        node.value.decode()
        for source in sources
        for node in ast.walk(source)
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and node.value.startswith(b"relay:")
    }
    assert {"relay:subscribed", "relay:end"} < events
    assert missing("sse", (f"| `{event}` |" for event in events)) == []
    query = arguments(sources, "_single", 1) | {"channel"}
    assert {"ticket", "last"} < query
    assert missing("sse", (f"| `{field}` |" for field in query)) == []
    assert missing("sse", [sse_routes.PATH, f"POST {sse_routes.TICKETS}"]) == []


def test_sse_names_each_end_that_is_not_one_of_websocket_alone() -> None:
    of_frames = {
        Reason.BINARY, Reason.FLOOD, Reason.IDLE, Reason.NORMAL, Reason.NOT_UTF8, Reason.PROTOCOL_ERROR, Reason.TOO_LARGE,
    }  # fmt: skip
    may_end = reasons("dialects/sse").union(*map(reasons, (*SHARED, "dialects/user_session.py"))) - of_frames
    assert {Reason.TOO_SLOW, Reason.TOKEN_EXPIRED, Reason.OVERLOADED} <= may_end
    rows = (f"| {reason.close_code} | {text_of(reason)} |" for reason in may_end)
    assert missing("sse", rows) == []


def test_live_names_each_route() -> None:
    app = Quart("routes")
    app.register_blueprint(routes.blueprint(cast(Any, None)))
    rows = {
        f"| `{method} {rule.rule}` |"
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    rows = {PARAMETER.sub(r"{\1}", row) for row in rows}
    assert missing("live", rows) == []


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_has_a_row_for_each_code_with_its_status_and_words() -> None:
    rows = (
        f"| `{code.value}` | {STATUS[code]} | `{live.ERROR_CODES[code]}` | `{channels.ERROR_CODES[code]}` |"
        for code in Code
    )
    assert missing("errors", rows) == []


@pytest.mark.parametrize(("topic", "table"), [("live", live.ERROR_CODES), ("channels", channels.ERROR_CODES)])
def test_a_dialect_names_each_of_its_error_codes(topic: str, table: dict[Code, str]) -> None:
    assert missing(topic, (f"| `{word}` |" for word in table.values())) == []


def test_errors_has_a_row_for_each_reason_with_its_close_code() -> None:
    rows = (f"| `{reason.name}` | {reason.close_code} | {text_of(reason)} |" for reason in Reason)
    assert missing("errors", rows) == []


def test_errors_says_what_to_do_after_each_close_code() -> None:
    _, _, advice = page("errors").partition("## After a close")
    named = {
        int(number)
        for line in advice.splitlines()
        if line.startswith("| 1")
        for number in re.findall("1[0-9]{3}", line)
    }
    assert {reason.close_code for reason in Reason} - named == set()


@pytest.mark.parametrize("topic", ["live", "channels", "feeds", "socketio"])
def test_a_dialect_names_each_close_that_it_may_end_with(topic: str) -> None:
    may_end = reasons(f"dialects/{topic}").union(*map(reasons, (*SHARED, *OF_USERS.get(topic, ()))))
    assert {Reason.TOO_SLOW, Reason.IDLE} <= may_end
    assert (Reason.BINARY in may_end) == (topic in OF_USERS)
    rows = (f"| {reason.close_code} | {text_of(reason)} |" for reason in may_end)
    assert missing(topic, rows) == []


# -- publishing and resume ---------------------------------------------------------------------------------------------


def name_of(kind: Namespace) -> str:
    if not kind.has_id:
        return kind.name
    return f"{kind.name}:<symbol>" if kind.name == "market" else f"{kind.name}:<id>"


def test_publishing_names_each_field_and_each_kind_with_its_default_type() -> None:
    assert missing("publishing", (f"| `{field}` |" for field in _FIELDS)) == []
    rows = (
        f"| `{name_of(kind)}` | `{kind.default_type}` |" if kind.default_type else f"| `{name_of(kind)}` | none"
        for kind in KINDS
    )
    assert missing("publishing", rows) == []


def test_publishing_names_each_field_that_the_id_fills_in() -> None:
    ids = {kind: kind.id_fields("1") for kind in KINDS if kind.id_fields is not None}
    lines = page("publishing").splitlines()
    for kind, fields in ids.items():
        [row] = [line for line in lines if line.startswith(f"| `{name_of(kind)}` |")]
        assert [field for field in fields if f"`{field}`" not in row] == [], kind.name


def test_resume_says_how_much_each_kind_keeps() -> None:
    lines = page("resume").splitlines()
    for kind in KINDS:
        [row] = [line for line in lines if line.startswith(f"| `{kind.name}`")]
        kept = "without end" if kind.history_period is None else "24 h"
        assert f"| {kind.history_size:,} | {kept} | {'yes' if kind.durable else 'no'} |" in row


# -- every page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", PAGES)
def test_commands_of_a_page_exist(topic: str) -> None:
    named = set(re.findall(r"(?:^|[`(]|\| )relay ([a-z]+)", page(topic), re.MULTILINE))
    assert named - set(main.commands) == set()
