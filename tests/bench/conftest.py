"""A real server for the loads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.running import RelayProcess

SETTINGS = """
[limits]
messages_per_minute = 100000
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    process = RelayProcess(tmp_path_factory.mktemp("server"), SETTINGS)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def key(server: RelayProcess) -> str:
    return server.command("keys", "create", "--user", "bench", "--scope", "publish")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
