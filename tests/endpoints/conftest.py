from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.helpers.job_files import make_model

START_SECONDS = 120.0


class FaultServer:
    """`fault_server` in a process of its own."""

    def __init__(self, model: str = "theirs", seconds: float = 0.01, most: int = 10**6) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = [str(self.port), model, str(seconds), str(most)]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.endpoints.fault_server", *self._arguments]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            try:
                httpx2.post(f"{self.url}/reset")
                return
            except httpx2.TransportError:
                time.sleep(0.05)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every attempt since it was started or reset, in order of arrival."""
        return list(httpx2.get(f"{self.url}/log").json())

    def reset(self) -> None:
        httpx2.post(f"{self.url}/reset")

    def pause(self) -> None:
        """It answers nothing any more, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def _shared_server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.kill()


@pytest.fixture
def server(_shared_server: FaultServer) -> FaultServer:
    """One that all tests use in turn; it remembers nothing of those before."""
    _shared_server.reset()
    return _shared_server


@pytest.fixture
def start_server() -> Iterator[Callable[..., FaultServer]]:
    """Starts servers of the test's own, which end with it."""
    servers: list[FaultServer] = []

    def start(**arguments: Any) -> FaultServer:
        servers.append(FaultServer(**arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
