"""Pages in a real browser, which is Chromium from npm."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.e2e.node import Script, node

FAILED_REQUEST = re.compile("ERR_CONNECTION|Failed to load resource")
"""Errors that a browser logs while the server is away, or answers 404."""
STEP_TIMEOUT = 30.0
"""Seconds that one step of a page may take on a busy machine, the start of the browser included."""


class Page:
    """One page of the browser, in a context of its own."""

    def __init__(self, browser: Script, name: str) -> None:
        self._browser = browser
        self._name = name

    async def do(self, method: str, *values: Any) -> Any:
        """Call a method of Playwright's page, and return its value."""
        await self._browser.tell(json.dumps([self._name, method, *values]))
        answer = await self._browser.until(lambda event: event[0] in ("done", "failed"), STEP_TIMEOUT)
        assert answer[0] == "done", answer
        return answer[1]

    async def open(self, url: str, **options: Any) -> None:
        """Open the page."""
        await self.do("open", options)
        await self.do("goto", url)

    async def join(self, name: str) -> None:
        """Join the demo, by a name or with a token."""
        await self.do("fill", "#name", name)
        await self.do("click", "#join button")
        await self.sees("#state[data-state=connected]")
        await self.do("waitForSelector", "#rooms [aria-current=true]")

    async def say(self, text: str) -> None:
        """Send a message."""
        await self.do("fill", "#message", text)
        await self.do("press", "#message", "Enter")

    async def sees(self, selector: str, text: str = "") -> None:
        """Wait until the page shows this text in such an element."""
        await self.do("waitForSelector", f"{selector}:has-text({json.dumps(text)})" if text else selector)

    async def until(self, expression: str) -> None:
        """Wait until an expression is true. Playwright's own way needs what the policy of the demo forbids."""
        with trio.fail_after(STEP_TIMEOUT):
            while not await self.do("evaluate", expression):
                await trio.sleep(0.05)

    async def texts(self, selector: str) -> list[str]:
        """Return the texts of all such elements."""
        found: list[str] = await self.do(
            "evaluate", f"[...document.querySelectorAll({selector!r})].map(e => e.innerText)"
        )
        return found


@asynccontextmanager
async def two_pages(allowed: re.Pattern[str] = FAILED_REQUEST) -> AsyncIterator[tuple[Page, Page]]:
    """Run a browser with two pages. At the end, the pages have logged no error but `allowed` ones."""
    async with node("browser.mjs") as browser:
        yield Page(browser, "ada"), Page(browser, "grace")
    errors = [event for event in browser.events if event[0] == "error" and not allowed.search(event[2])]
    assert errors == []


@asynccontextmanager
async def relay_demo() -> AsyncIterator[str]:
    """Run `relay demo`, and return the address that it prints."""
    command = [sys.executable, "-m", "relay", "demo", "--port", "0"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        text = b""
        with trio.fail_after(STEP_TIMEOUT):
            while not (address := re.search(rb"http://\S+/demo\n", text)):
                text += await process.stdout.receive_some()
        yield address[0].decode().strip()
        process.send_signal(signal.SIGINT)
        with trio.fail_after(STEP_TIMEOUT):
            assert await process.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()
