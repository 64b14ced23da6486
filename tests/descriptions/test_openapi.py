"""`/openapi.json`: it is valid, and has every route, field and error code of the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from relay.api import management, method_views, methods, openapi
from relay.api.operation import Operation, operation_of
from relay.dialects.live import rest
from relay.ground.errors import Code, RefusalReason
from relay.transports.http_errors import STATUS
from tests.descriptions.documents import documents
from tests.descriptions.reading import source_of
from tests.http_client import http_client
from tests.rights.test_routes import ROUTES
from tests.running import config_for, running

WITHOUT = ("/docs", "/demo", "/console", "/relay.js", "/relay.d.ts", "/socket.io/", "/api/<method>")
"""Paths that are not described: pages and files, the sign-in of the console, Socket.IO, and the route that stands for all
methods of `/api/`."""
ONLY_ELSEWHERE = {Code.METHOD_NOT_ALLOWED, Code.TOO_MANY_SUBSCRIPTIONS}
"""Codes that no described operation refuses with: any path may answer 405, and only WebSocket subscribes."""
READ_AS_A_WHOLE = ("POST /v1/publish", "POST /v1/admin/publish", "GET /v1/sse")
"""Routes whose body or query another module reads: `access.publishing`, and the one of the streams."""
HOW = "put @describe(...) of relay/api/operation.py between the decorator of the route and its function"
RESPONSE = re.compile(r"#/components/responses/(\w+)")


def is_described(row: str) -> bool:
    """Return whether the path of a row must be in the document."""
    return not row.split()[1].startswith(WITHOUT)


async def operations(folder: Path) -> dict[str, tuple[Any, Operation]]:
    """Return the function and the description of each route that is described, by method and path."""
    read = await documents(folder)
    routes = {**read.views, **read.streams}
    found = {row: (view, operation_of(view)) for row, view in routes.items()}
    return {row: (view, operation) for row, (view, operation) in found.items() if operation is not None}


@pytest.mark.slow
async def test_the_official_validator_finds_nothing(tmp_path: Path) -> None:
    found = (await documents(tmp_path)).openapi
    assert found["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []


async def test_every_route_is_described(tmp_path: Path) -> None:
    """Each that Quart routes, and each that is answered without it. A failure names the function to describe."""
    read = await documents(tmp_path)
    there = {f"{method.upper()} {path}" for path, by_method in read.openapi["paths"].items() for method in by_method}
    places = {row: f"{view.__module__}.{view.__name__}" for row, view in read.views.items()}
    places |= dict.fromkeys(read.direct, "`streams` of relay/server/server.py, or management.operations")
    wanted = {openapi.template(row): place for row, place in places.items() if is_described(row)}
    missing = [f"{row}: {HOW}: {wanted[row]}" for row in sorted(wanted.keys() - there)]
    assert missing == [], "\n".join(missing)
    assert there - wanted.keys() == set(), "described, and not there"
    assert len(there) > 45


async def test_every_operation_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Generators call functions by it."""
    paths = (await documents(tmp_path)).openapi["paths"].values()
    names = [operation["operationId"] for by_method in paths for operation in by_method.values()]
    assert sorted(names) == sorted(set(names))


async def test_every_field_that_a_route_reads_is_described(tmp_path: Path) -> None:
    """A field that is read by hand is in the description, and no other; a class that is read is the one described."""
    for row, (view, operation) in (await operations(tmp_path)).items():
        source = source_of(view)
        by_hand: set[str] = set()
        for described in (operation.query, operation.body):
            if isinstance(described, type) and attrs.has(described):
                helpers = {"RoomsQuery": "rooms_page_of", "MessagesQuery": "messages_page_of", "PageQuery": "page_of"}
                assert {described.__name__, helpers.get(described.__name__, "")} & source.names(), (row, described)
            elif described is not None and row not in READ_AS_A_WHOLE:
                by_hand |= set(described)
        assert source.fields() == by_hand, f"{row}: the fields read and those in @describe differ"


@pytest.mark.parametrize("name", methods.NAMES)
def test_every_parameter_of_a_method_is_described(name: str) -> None:
    """In the table of parameters."""
    function = {**methods.METHODS, **{one: getattr(methods, f"_{one}") for one in ("publish", "broadcast", "batch")}}[
        name
    ]
    source = source_of(function)
    read = source.fields() | ({"channel"} if "channel" in source.names() else set())
    if name == "batch":
        read = {"commands"}  # its commands have the parameters of their methods
    read -= {"channel"} if name == "broadcast" else set()
    assert read == set(method_views.PARAMETERS[name])


async def test_every_class_of_a_body_is_described(tmp_path: Path) -> None:
    """Each class of `live` that a request is read as."""
    classes = {one for one in vars(rest).values() if attrs.has(one) and one.__module__ == rest.__name__} - {rest.Page}
    pairs = [(one.query, one.body) for _, one in (await operations(tmp_path)).values()]
    described = {one for pair in pairs for one in pair if isinstance(one, type)}
    assert classes - described == set()


async def test_every_code_that_a_route_names_is_described(tmp_path: Path) -> None:
    """And each code is one of an operation."""
    described = await operations(tmp_path)
    for row, (view, operation) in described.items():
        named = {Code[name] for name in source_of(view).codes()}
        assert named - operation.codes == set(), f"{row}: add them to `errors` of @describe"
    every = frozenset[Code]().union(*(operation.codes for _, operation in described.values()))
    assert set(Code) - every == ONLY_ELSEWHERE


async def test_every_status_that_a_role_is_answered_is_described(tmp_path: Path) -> None:
    """The table of rights says what each role is answered."""
    paths = (await documents(tmp_path)).openapi["paths"]
    by_shape = {re.sub(r"\{\w+\}", "{}", path): by_method for path, by_method in paths.items()}
    for row, cells in ROUTES.items():
        method, path = row.split()[0].lower(), row.split()[1].partition("?")[0]
        if path.startswith(("/docs", "/demo", "/relay.", "/socket.io/", "/nothing", "/api/")):
            continue
        operation = by_shape.get(re.sub(r"\{\w+\}", "{}", path), {}).get(method)
        if operation is not None:  # another test finds those that are missing
            assert set(cells.values()) - operation["responses"].keys() == set(), row


async def test_every_error_code_and_reason_is_in_the_document(tmp_path: Path) -> None:
    """A code in the response of its status, and a reason in the shape of a refusal."""
    components = (await documents(tmp_path)).openapi["components"]
    for code in Code:
        [response] = [
            one for name, one in components["responses"].items() if name == openapi._response_name(STATUS[code])
        ]
        assert f"`{code.value}`" in response["description"]
    assert components["schemas"]["Refusal"]["properties"]["reason"]["enum"] == [
        reason.value for reason in RefusalReason
    ]


def test_methods_answer_with_the_statuses_of_their_table() -> None:
    """For a client that asks for them."""
    for operation in management.operations().values():
        assert operation.others.keys() == {status for _, status in methods.NUMBERS.values()}


async def test_it_is_made_once_and_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has an ETag, and any page may read it."""
    made: list[int] = []
    build = openapi.build

    def counted(routes: Iterable[openapi.Route]) -> dict[str, Any]:
        made.append(1)
        return build(routes)

    monkeypatch.setattr(openapi, "build", counted)
    async with (
        running(config_for(tmp_path)) as (_, address),
        http_client(address) as client,
    ):
        assert made == []
        for path in ("/openapi.json", "/asyncapi.json"):
            first = await client.get(path)
            assert first.status_code == 200
            assert first.headers["Content-Type"] == "application/json"
            assert first.headers["Access-Control-Allow-Origin"] == "*"
            again = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        front = (await client.get("/")).json()["data"]
        assert (front["openapi"], front["asyncapi"]) == ("/openapi.json", "/asyncapi.json")
        assert 'href="/openapi.json"' in (await client.get("/", headers={"Accept": "text/html"})).text
    assert made == [1]


async def test_a_dialect_that_is_off_is_not_described(tmp_path: Path) -> None:
    """The documents are those of this server."""
    async with (
        running(config_for(tmp_path, {"dialects.live.enabled": False})) as (_, address),
        http_client(address) as client,
    ):
        assert "/v1/chatrooms" not in (await client.get("/openapi.json")).json()["paths"]
        assert "live" not in (await client.get("/asyncapi.json")).json()["channels"]
