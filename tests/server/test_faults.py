"""What the machine does to a server: a full disk, a locked database, a clock that is set back."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.server.long_batches import begun, long_lines, one_record_per_line
from tests.server.server_process import CHAT_URL, chats, serving

NEW = {"input_file_id": "file-x", "endpoint": CHAT_URL, "completion_window": "24h"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Take all space but so many bytes."""
    path = folder / "filler"
    status = os.statvfs(folder)
    path.write_bytes(b"\0" * max(0, status.f_bavail * status.f_frsize - leave))
    return path


def test_a_full_disk(small_disk: Path) -> None:
    """What is asked for is refused, what runs waits, and all goes on when there is room."""
    lines = long_lines(120)
    with serving(small_disk) as server:
        batch = server.submit(lines)
        server.until(batch.id, begun)
        filler = fill(small_disk, 8192)
        with pytest.raises(openai.InternalServerError) as refused:
            server.upload([b"x" * 100_000])
        assert refused.value.status_code == 507
        assert str(small_disk) not in str(refused.value)
        told = re.compile(f"{batch.id} waits|database or disk is full")  # who wants room first
        server.wait(lambda: told.search(server.log.read_text()) is not None)
        assert server.raw("GET", f"/v1/batches/{batch.id}")[0] == 200
        filler.unlink()
        batch = server.ended(batch.id)
        assert batch.status == "completed"
        assert one_record_per_line(server, batch, lines) == {}
        assert len(server.upload([b"{}"]).id) > 0


def test_a_locked_database(tmp_path: Path) -> None:
    """Somebody holds it longer than a transaction waits; nothing is lost of what runs."""
    lines = long_lines(60)
    with serving(tmp_path, "--database", f"sqlite:///{tmp_path / 'own.db'}?timeout=1") as server:
        batch = server.submit(lines)
        server.until(batch.id, begun)
        other = sqlite3.connect(tmp_path / "own.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        status, body, headers = server.raw("POST", "/v1/batches", json=NEW)
        assert (status, body["error"]["code"]) == (503, "database_unavailable")
        assert headers["retry-after"] == "5"
        assert server.raw("GET", f"/v1/batches/{batch.id}")[0] == 200  # reading goes on
        time.sleep(3)
        other.execute("ROLLBACK")
        batch = server.ended(batch.id)
        assert batch.status == "completed"
        assert one_record_per_line(server, batch, lines) == {}


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """And forth: only windows and expiries go by it."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    lines = long_lines(60)
    with serving(tmp_path, clock=offset) as server:
        batch = server.submit(lines, completion_window="1h")
        server.until(batch.id, begun)
        offset.write_text(str(-86400))
        later = server.submit(chats(2))
        assert later.created_at < batch.created_at - 80_000
        assert [each.id for each in server.client.batches.list()][:2] == [later.id, batch.id]
        batch = server.ended(batch.id)
        assert batch.status == "completed"
        assert one_record_per_line(server, batch, lines) == {}
        assert server.ended(later.id).status == "completed"
        running = server.submit(lines, completion_window="1h")
        server.until(running.id, begun)
        offset.write_text("0")
        running = server.ended(running.id)
        assert running.status == "expired"
        assert set(one_record_per_line(server, running, lines)) == {"batch_expired"}
