"""A page whose name was pointed to this machine reaches the server, but is answered nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shoal.server.http.known_hosts import KnownHosts, is_loopback
from tests.server.server_process import Server

HERE = ["127.0.0.1", "localhost", "LOCALHOST:8000", "127.1.2.3:80", "[::1]:8000", "localhost."]
ELSEWHERE = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""]
ELSEWHERE += ["192.168.0.7", "[", "evil@evil.example", "0.0.0.0:8000"]


def status(middleware: KnownHosts, *header: str) -> int:
    """Of what a request with this Host header, or none, is answered; 200 by the application."""
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    async def nothing() -> Any:
        return {"type": "http.request"}

    headers = [(b"host", value.encode()) for value in header]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    asyncio.run(middleware(scope, nothing, keep))
    return int(sent[0]["status"])


async def fine(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def test_names_of_this_machine_are_known() -> None:
    middleware = KnownHosts(fine, "127.0.0.1")
    assert [status(middleware, host) for host in HERE] == [200] * len(HERE)
    assert [status(middleware, host) for host in ELSEWHERE] == [403] * len(ELSEWHERE)
    assert status(middleware) == 200  # HTTP/1.0, so no browser


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example")


@pytest.mark.parametrize("path", ["/", "/v1/batches", "/live/about", "/healthz", "/metrics"])
def test_a_rebound_name_is_refused_in_words(server: Server, path: str) -> None:
    asked = {"host": "evil.example:8000"}
    status, body, _ = server.raw("GET", path, headers=asked)
    assert (status, body["error"]["code"]) == (403, "unknown_host")
    assert "--api-key" in body["error"]["message"]
    name = server.url.replace("http://127.0.0.1", "localhost")
    assert server.raw("GET", path, headers={"host": name})[0] == 200


def test_with_keys_any_name_will_do(keyed: Server) -> None:
    asked = {"host": "batches.example"}
    assert keyed.raw("GET", "/v1/batches", headers=asked)[0] == 200
    assert keyed.raw("GET", "/v1/batches", headers={"authorization": ""} | asked)[0] == 401
