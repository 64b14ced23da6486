"""The handbook over HTTP: the same pages, which a browser may show and not run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import trio

from relay.api.docs import anchor, rewritten
from relay.docs import handbook
from tests.docs.test_handbook import TO_COME
from tests.http_client import http_client
from tests.running import config_for, running


class _Reader(HTMLParser):
    """Notes the elements of a page, its links and the ids that they may lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.add(tag)
        self.attributes |= values.keys()
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "img":
            self.pictures.append(values["src"] or "")
        if value := values.get("id"):
            self.ids.add(value)


def read(html: str) -> _Reader:
    """Return what is in a page."""
    reader = _Reader()
    reader.feed(html)
    return reader


@pytest.mark.slow
async def test_every_page_is_shown_and_leads_to_the_others(tmp_path: Path) -> None:
    """Without a script, a style of its own or anything from elsewhere."""
    with trio.fail_after(30):
        async with (
            running(config_for(tmp_path)) as (_, address),
            http_client(address) as http,
        ):
            contents = await http.get("/docs")
            pages = {f"/docs/{topic}": await http.get(f"/docs/{topic}") for topic in handbook.topics()}
            style = await http.get("/docs/style.css")
            picture = await http.get("/docs/screens/overview-dark.webp")
            assert (await http.get("/docs/screens/nothing.webp")).status_code == 404
    readers = {path: read(page.text) for path, page in {"/docs": contents, **pages}.items()}
    for path, page in {"/docs": contents, **pages}.items():
        assert page.status_code == 200, path
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not readers[path].elements & {"script", "style", "iframe", "form"}
        assert not {name for name in readers[path].attributes if name == "style" or name.startswith("on")}
        assert all(source.startswith("/docs/screens/") for source in readers[path].pictures)
        for link in readers[path].links:
            target, _, fragment = link.partition("#")
            if "://" not in link and target.removesuffix(".md") not in TO_COME:
                assert (target or path) in readers, (path, link)
                assert not fragment or fragment in readers[target or path].ids, (path, link)
    assert {link for link in readers["/docs"].links if link != "/docs"} == pages.keys()
    assert "/docs/screens/overview-dark.webp" in readers["/docs/console"].pictures
    assert (picture.status_code, picture.headers["content-type"], picture.content[:4]) == (200, "image/webp", b"RIFF")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "url(" not in style.text
    assert "@import" not in style.text


async def test_an_unknown_page_and_another_method(tmp_path: Path) -> None:
    """Answered as every route answers, and no file is read for it."""
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path)) as (_, address),
            http_client(address) as http,
        ):
            for topic in ("nothing", "handbook.py", "tls.md", "..%2Fdocs%2Ftls", "__init__"):
                response = await http.get(f"/docs/{topic}")
                assert (response.status_code, response.json()["success"]) == (404, False), topic
            assert (await http.post("/docs", json={})).status_code == 405
            head = await http.head("/docs/tls")
            assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("link", "served"),
    [
        ("tls.md", "/docs/tls"),
        ("tls.md#renewal", "/docs/tls#renewal"),
        ("#renewal", "#renewal"),
        ("nothing.md", "nothing.md"),
        ("../tls.md", "../tls.md"),
        ("https://example.org/tls.md", "https://example.org/tls.md"),
    ],
)
def test_links_between_pages_are_rewritten(link: str, served: str) -> None:
    """And no others."""
    assert rewritten(link) == served


def test_headings_have_the_fragments_that_forges_give_them() -> None:
    """Lower case, hyphens for spaces, no punctuation."""
    assert anchor("relay keys create") == "relay-keys-create"
    assert anchor("Fan-out beside Bun and `ws` (2026-11-21)") == "fan-out-beside-bun-and-ws-2026-11-21"
    assert re.fullmatch(r"[\w-]+", anchor("The handbook at `/docs`"))
