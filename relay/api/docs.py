"""`GET /docs`: the handbook as HTML. Everyone may read it: it holds nothing about this server.

The pages carry no script, and a browser may load nothing for them but the style sheet and the pictures of this server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio
from quart import Blueprint, Response, request

from relay.api import files
from relay.docs import handbook
from relay.ground.errors import Code, RequestError

if TYPE_CHECKING:
    from markdown_it.token import Token

PATH = "/docs"
STYLE_PATH = f"{PATH}/style.css"
PICTURES = "screens"
"""The folder of the pictures, in the package and below PATH."""
PICTURES_PATH = f"{PATH}/{PICTURES}"
MAX_AGE = 300
"""Seconds for which a browser may keep a page. A new release is a restart, so an old page is seen for no longer."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": f"max-age={MAX_AGE}",
}


def blueprint() -> Blueprint:
    """Return the routes: the list of pages, each page, and the style sheet."""
    routes = Blueprint("docs", __name__)

    @routes.get(PATH)
    async def contents() -> Response:
        return await _response(render_contents, "text/html; charset=utf-8")

    @routes.get(f"{PATH}/<topic>")
    async def page(topic: str) -> Response:
        if topic not in handbook.topics():
            raise RequestError(Code.NOT_FOUND, "The handbook has no page on this topic.")
        return await _response(lambda: render_page(topic), "text/html; charset=utf-8")

    @routes.get(STYLE_PATH)
    async def style() -> Response:
        return await _response(lambda: handbook.read("style.css"), "text/css; charset=utf-8")

    @routes.get(f"{PICTURES_PATH}/<name>")
    async def picture(name: str) -> Response:
        if name not in files.names(handbook.__package__, PICTURES):
            raise RequestError(Code.NOT_FOUND, "The handbook has no such picture.")
        return files.respond(request, handbook.__package__, f"{PICTURES}/{name}", "image/webp", HEADERS)

    return routes


async def _response(render: Callable[[], str], content_type: str) -> Response:
    # In a thread: the first reader of a long page waits some 15 ms for it, and no session should.
    return Response(await trio.to_thread.run_sync(render), content_type=content_type, headers=HEADERS)


@cache
def render_contents() -> str:
    """Return the list of pages as HTML."""
    sections: list[str] = []
    for part, topics in handbook.parts().items():
        entries = "".join(
            f'<dt><a href="{PATH}/{quote(topic)}">{escape(handbook.page(topic).title)}</a></dt>'
            f"<dd>{escape(handbook.page(topic).summary)}</dd>"
            for topic in topics
        )
        sections.append(f"<h2>{escape(part)}</h2><dl>{entries}</dl>")
    return _document("Relay handbook", f"<h1>Relay handbook</h1>{''.join(sections)}", None)


@cache
def render_page(topic: str) -> str:
    """Return a page as HTML. At most every page is kept in memory: the caller checks that the topic exists."""
    # Imported here, because its 62 modules would slow every start. The import is in the thread, too.
    from markdown_it import MarkdownIt

    page = handbook.page(topic)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(page.text)
    for token in _with_children(tokens):
        if token.type == "link_open":
            token.attrSet("href", rewritten(str(token.attrGet("href") or "")))
        if token.type == "image":
            token.attrSet("src", f"{PATH}/{token.attrGet('src')}")
            token.attrSet("loading", "lazy")
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", anchor(inline.content))
    return _document(page.title, markdown.renderer.render(tokens, markdown.options, {}), topic)


def rewritten(link: str) -> str:
    """Return a link between two pages as it is served: `tls.md#renewal` is `/docs/tls#renewal`. Others stay."""
    match = re.fullmatch(r"([\w-]+)\.md(#.*)?", link)
    return f"{PATH}/{match[1]}{match[2] or ''}" if match and match[1] in handbook.topics() else link


def anchor(heading: str) -> str:
    """Return the fragment of a heading, as GitHub forms it: so one link works there and here."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _with_children(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


def _document(title: str, body: str, current: str | None) -> str:
    navigation = "".join(
        f"<h2>{escape(part)}</h2><ul>{''.join(_entry(topic, current) for topic in topics)}</ul>"
        for part, topics in handbook.parts().items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} · Relay</title><link rel="stylesheet" href="{STYLE_PATH}"></head>\n'
        f'<body><div class="frame"><nav aria-label="Handbook"><a href="{PATH}">Handbook</a>{navigation}</nav>\n'
        f"<main>{body}</main></div></body></html>\n"
    )


def _entry(topic: str, current: str | None) -> str:
    mark = ' aria-current="page"' if topic == current else ""
    return f'<li><a href="{PATH}/{quote(topic)}"{mark}>{escape(topic)}</a></li>'
