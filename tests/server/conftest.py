from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.server_process import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that neither kill nor stop it."""
    folder: Path = tmp_path_factory.mktemp("server")
    with serving(folder, "--max-file-size", "4MB", "--max-requests", "2000") as running:
        yield running
