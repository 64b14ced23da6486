"""One server for each module of tests of the Python client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import stores
from tests.client.loops import SETTINGS
from tests.running import RelayProcess


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A server in a process of its own, which a test may kill and start again."""
    stores.use(str(request.config.getoption("store")))
    process = RelayProcess(tmp_path_factory.mktemp("relay"), SETTINGS)
    process.start()
    yield process
    process.stop()
