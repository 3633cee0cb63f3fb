"""Uploads and clients that mean no good, or do not know better."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server.server_process import Server, chats
from tests.server.test_operations import forget_peak, peak_bytes

BOUNDARY = "b0undary"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    given = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{given}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(content: bytes, filename: str = "in.jsonl") -> bytes:
    body = part("purpose", b"batch") + part("file", content, filename)
    return body + f"--{BOUNDARY}--\r\n".encode()


def post(server: Server, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which an upload has begun."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection = socket.create_connection((address.hostname, address.port or 80), timeout=30)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer none\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    response = b""
    while b"\r\n\r\n" not in response:
        response += connection.recv(65536)
    head, _, body = response.partition(b"\r\n\r\n")
    found = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(found[0].split(b":")[1]):
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def left_over(server: Server) -> list[Path]:
    return list((server.folder / "data" / "files").glob(".upload-*"))


@pytest.mark.parametrize("cut", [0, 1, 40, 150, 300, -1])
def test_an_upload_that_breaks_off_leaves_nothing(server: Server, cut: int) -> None:
    body = form(b"x" * 200)
    before = len(list(server.client.files.list()))
    post(server, body[:cut], len(body)).close()
    server.wait(lambda: not left_over(server))
    assert len(list(server.client.files.list())) == before


def test_slow_clients_hold_nobody_up(server: Server) -> None:
    """Twenty send a byte now and then, and twenty take nothing of what they asked for."""
    file = server.upload([b"x" * 1000] * 3000)
    body = form(b"x" * 1000)
    address = urlsplit(server.url)
    senders = [post(server, body[:100], len(body)) for _ in range(20)]
    readers = []
    for _ in range(20):
        reader = socket.create_connection((address.hostname or "", address.port or 80))
        path = f"/v1/files/{file.id}/content"
        reader.sendall(
            f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer none\r\n\r\n".encode()
        )
        readers.append(reader)
    pid = server.process.pid
    forget_peak(pid)
    before = peak_bytes(pid)
    for place in range(100, 110):
        for sender in senders:
            sender.sendall(body[place : place + 1])
        began = time.monotonic()
        server.client.batches.list()
        assert time.monotonic() - began < 5
    assert peak_bytes(pid) - before < 30_000_000
    senders[0].sendall(body[110:])
    assert answer(senders[0])[0] == 200
    for connection in [*senders, *readers]:
        connection.close()
    server.wait(lambda: not left_over(server))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{}\n" * 1_000_000, "missing_required_parameter"),
        (b"\n" * 1_000_000, "empty_file"),
        (b"[" * 3_900_000, "invalid_json_line"),
        (b'{"a":' * 700_000, "invalid_json_line"),
        (b"\x00" * 1_000_000, "invalid_json_line"),
        (b'{"custom_id": "' + b"\xed\xa0\x80" * 1000 + b'"}', "invalid_json_line"),
    ],
    ids=["million lines", "million blanks", "deep", "deep objects", "zeros", "surrogates"],
)
def test_files_that_hold_strange_things(server: Server, content: bytes, code: str) -> None:
    with post(server, form(content)) as connection:
        status, file = answer(connection)
    assert status == 200, file
    batch = server.client.batches.create(
        input_file_id=str(file["id"]),
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    batch = server.ended(batch.id, 60)
    assert batch.status == "failed"
    assert batch.errors is not None
    errors = batch.errors.data or []
    assert errors[0].code == code
    assert len(errors) <= 100


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../../etc/passwd.jsonl", "passwd.jsonl"),
        ("C:\\\\evil\\\\in.jsonl", "in.jsonl"),
        ("/proc/self/mem.jsonl", "mem.jsonl"),
        ("a\x00b\x1b[31m.jsonl", "ab[31m.jsonl"),
        ("n" * 5000 + ".jsonl", "n" * 249 + ".jsonl"),
        ("\u202etxt.jsonl", "txt.jsonl"),
    ],
)
def test_names_that_are_paths(server: Server, name: str, shown: str) -> None:
    before = sorted(os.listdir(server.folder / "data"))
    with post(server, form(b"{}", name)) as connection:
        status, file = answer(connection)
    if status == 400:  # some are no header at all
        return
    assert (status, file["filename"]) == (200, shown)
    assert sorted(os.listdir(server.folder / "data")) == before
    assert (server.folder / "data" / "files" / str(file["id"])).read_bytes() == b"{}"


def test_after_all_that_a_batch_is_as_ever(server: Server) -> None:
    assert server.ended(server.submit(chats(2)).id).status == "completed"
    log = server.log.read_text()
    assert "Traceback" not in log, log[-4000:]
