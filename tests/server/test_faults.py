"""What the machine does to a server: a full disk, a locked database, a clock that is set back."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from shoal.server.live.broadcast import Broadcast
from shoal.server.live.live import EngineFigures, Live
from shoal.server.store.database import Database
from shoal.server.store.setbacks import CALM_SECONDS, Setbacks
from tests.server.long_batches import begun, long_lines, one_record_per_line
from tests.server.server_process import CHAT_URL, Server, chats, serving

NEW = {"input_file_id": "file-x", "endpoint": CHAT_URL, "completion_window": "24h"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 8 MB; a mere folder where none may be mounted."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def fragile(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a small disk, with a clock of its own and little patience with its database.

    At its end its log must hold no traceback: that is said of all tests in this file.
    """
    offset = tmp_path_factory.mktemp("clock") / "offset"
    offset.write_text("0")
    database = ["--database", f"sqlite:///{disk / 'own.db'}?timeout=1"]
    with serving(disk, *database, "--merge-wait", "0.1", clock=offset) as server:
        yield server


@pytest.fixture
def new_lines(fragile: Server) -> Callable[[], list[str]]:
    """What the server has logged since the test began."""
    begins = len(fragile.log.read_text().splitlines())
    return lambda: fragile.log.read_text().splitlines()[begins:]


def fill(folder: Path, leave: int) -> Path:
    """Take all space but so many bytes."""
    path = folder / "filler"
    status = os.statvfs(folder)
    path.write_bytes(b"\0" * max(0, status.f_bavail * status.f_frsize - leave))
    return path


def test_a_full_disk(disk: Path, fragile: Server, new_lines: Callable[[], list[str]]) -> None:
    """What is asked for is refused, what runs waits, and all goes on when there is room.

    It says so once, and not each time that it tries.
    """
    if not disk.is_mount():
        pytest.skip("may not mount a file system")
    server, lines = fragile, long_lines(80)
    batch = server.submit(lines)
    server.until(batch.id, begun)
    filler = fill(disk, 8192)
    with pytest.raises(openai.InternalServerError) as refused:
        server.upload([b"x" * 100_000])
    assert refused.value.status_code == 507
    told = re.compile(f"{batch.id} waits|the runner waits")  # who wants room first
    server.wait(lambda: any(map(told.search, new_lines())))
    time.sleep(4)
    assert server.raw("GET", f"/v1/batches/{batch.id}")[0] == 200
    filler.unlink()
    batch = server.ended(batch.id)
    assert batch.status == "completed"
    assert one_record_per_line(server, batch, lines) == {}
    assert len(server.upload([b"{}"]).id) > 0
    waiting = [re.sub(r"^\S+ \S+ ", "", line) for line in new_lines() if " waits: " in line]
    assert len(waiting) == len(set(waiting)), "each is said once"
    who = {line.partition(" waits: ")[0].partition(" ")[2] for line in waiting}
    itself = [each for each in who if not each.startswith("batch")]
    server.wait(lambda: all(any(f"{w} goes on" in line for line in new_lines()) for w in itself))
    assert len(new_lines()) < 40, new_lines()


def test_a_locked_database(disk: Path, fragile: Server, new_lines: Callable[[], list[str]]) -> None:
    """Somebody holds it longer than a transaction waits; nothing is lost of what runs."""
    server, lines = fragile, long_lines(60)
    batch = server.submit(lines)
    server.until(batch.id, begun)
    other = sqlite3.connect(disk / "own.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    status, body, headers = server.raw("POST", "/v1/batches", json=NEW)
    assert (status, body["error"]["code"]) == (503, "database_unavailable")
    assert headers["retry-after"] == "5"
    assert server.raw("GET", f"/v1/batches/{batch.id}")[0] == 200  # reading goes on
    server.wait(lambda: any("waits: database is locked" in line for line in new_lines()))
    time.sleep(3)
    other.execute("ROLLBACK")
    batch = server.ended(batch.id)
    assert batch.status == "completed"
    assert one_record_per_line(server, batch, lines) == {}
    assert sum("the runner waits: database is locked" in line for line in new_lines()) <= 1


def test_a_clock_that_is_set_back(fragile: Server) -> None:
    """And forth: only windows and expiries go by it."""
    server, lines = fragile, long_lines(60)
    batch = server.submit(lines, completion_window="1h")
    server.until(batch.id, begun)
    server.set_clock(-86400)
    later = server.submit(chats(2))
    assert later.created_at < batch.created_at - 80_000
    assert [each.id for each in server.client.batches.list()][:2] == [later.id, batch.id]
    batch = server.ended(batch.id)
    assert batch.status == "completed"
    assert one_record_per_line(server, batch, lines) == {}
    assert server.ended(later.id).status == "completed"
    running = server.submit(lines, completion_window="1h")
    server.until(running.id, begun)
    server.set_clock(0)
    running = server.ended(running.id)
    assert running.status == "expired"
    assert set(one_record_per_line(server, running, lines)) == {"batch_expired"}


def test_contents_that_somebody_took_away(
    fragile: Server, new_lines: Callable[[], list[str]]
) -> None:
    """Of a result, and of an input before its batch is read."""
    server = fragile
    done = server.ended(server.submit(chats(2)).id)
    data = server.folder / "data"
    (data / "batches" / done.id / "output.jsonl").unlink()
    with pytest.raises(openai.InternalServerError) as refused:
        server.client.files.content(done.output_file_id or "")
    assert refused.value.status_code == 500
    assert sum("output.jsonl" in line for line in new_lines()) == 1
    file = server.upload(chats(2))
    (data / "files" / file.id).unlink()
    batch = server.client.batches.create(
        input_file_id=file.id, endpoint=CHAT_URL, completion_window="24h"
    )
    batch = server.ended(batch.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [error.param for error in batch.errors.data or []] == ["file_id"]


@pytest.mark.parametrize("leave", [0, 12_288])
def test_a_start_on_a_full_disk(disk: Path, leave: int) -> None:
    """It says why it cannot, or serves."""
    if not disk.is_mount():
        pytest.skip("may not mount a file system")
    filler = fill(disk, leave)
    command = [sys.executable, "-m", "shoal", "serve", "--port", "0"]
    command += ["--data-dir", str(disk / f"new-{leave}")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.terminate()
        said += process.stderr.read()
    filler.unlink()
    assert re.search(r"serving on|shoal: cannot use ", said), said
    assert "Traceback" not in said


def test_pages_are_refused_before_their_stream_begins(tmp_path: Path) -> None:
    """When the database cannot be read: the answer is an error, and not half a stream."""
    database = Database(f"sqlite:///{tmp_path / 'own.db'}")
    with database.transaction() as session:
        session.execute(text("DROP TABLE batches"))
    broadcast = Broadcast(database, Live(), EngineFigures(), lambda: False)
    with pytest.raises(OperationalError, match="no such table"):
        asyncio.run(broadcast.open(""))
    database.close()


def test_a_setback_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = 0.0
    setbacks = Setbacks(lambda: now)
    full = OperationalError("UPDATE batches SET ...", {}, sqlite3.OperationalError("disk is full"))
    for _ in range(3):
        now += 1
        setbacks.met("the runner", full)
    setbacks.none("the runner")
    setbacks.waits("batch b", "[Errno 28] No space left on device", batch="b")
    now = 3 + CALM_SECONDS
    setbacks.met("the clerk", OSError(5, "Input/output error"))
    for _ in range(3):
        setbacks.none("the runner")
    setbacks.none("the clerk")  # too soon
    assert "batch b" in setbacks
    setbacks.forget("batch b")
    assert [record.getMessage() for record in caplog.records] == [
        "the runner waits: disk is full",
        "batch b waits: [Errno 28] No space left on device",
        "the clerk waits: [Errno 5] Input/output error",
        "the runner goes on",
    ]
    assert caplog.records[1].batch == "b"  # type: ignore[attr-defined]
    assert not any(record.exc_info for record in caplog.records)
    setbacks.met("the clerk", KeyError("ours"))  # a defect: where it is matters
    setbacks.met("the clerk", KeyError("ours"))
    assert [bool(record.exc_info) for record in caplog.records[4:]] == [True]
