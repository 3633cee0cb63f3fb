from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.server_process import Server, serving

KEYS = ("alpha", "beta", "gamma", "delta", "page-one", "page-two", "live-one", "live-two")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that neither kill nor stop it."""
    folder: Path = tmp_path_factory.mktemp("server")
    limits = ["--max-file-size", "4MB", "--max-requests", "2000", "--merge-wait", "0.1"]
    with serving(folder, *limits) as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that wants a key. Each test has keys of its own; see `Server.as_key`."""
    folder: Path = tmp_path_factory.mktemp("keyed")
    keys = [argument for key in KEYS for argument in ("--api-key", key)]
    more = ["--max-batches", "5", "--merge-wait", "0.1"]
    with serving(folder, *keys, *more, key="alpha") as running:
        yield running
