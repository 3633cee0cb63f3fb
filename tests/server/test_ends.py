"""Batches that end early or are interrupted: cancelled, expired, stopped; a killed engine."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.server.long_batches import begun, long_lines, one_record_per_line
from tests.server.server_process import Server, chats, serving


def test_cancelling_a_batch_that_runs(server: Server) -> None:
    lines = long_lines()
    lines[3] = lines[3] | {"body": lines[3]["body"] | {"temperature": 9}}
    batch = server.submit(lines)
    server.until(batch.id, begun)
    asked = time.monotonic()
    batch = server.client.batches.cancel(batch.id)
    assert batch.status == "cancelling"
    assert server.client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = server.ended(batch.id)
    assert time.monotonic() - asked < 30
    assert batch.status == "cancelled"
    assert None not in (batch.cancelling_at, batch.cancelled_at, batch.in_progress_at)
    assert batch.completed_at is None
    codes = one_record_per_line(server, batch, lines)
    assert set(codes) == {"batch_cancelled"}
    assert codes["batch_cancelled"] > 0
    assert batch.request_counts is not None
    assert batch.request_counts.completed > 0
    assert codes["batch_cancelled"] == batch.request_counts.failed - 1  # line 3 has its own error
    assert server.client.batches.cancel(batch.id).status == "cancelled"


def test_cancelling_a_batch_that_waits(server: Server) -> None:
    running = server.submit(long_lines())
    server.until(running.id, begun)
    lines = chats(5)
    waiting = server.submit(lines)
    server.until(waiting.id, lambda batch: batch.status == "in_progress")
    server.client.batches.cancel(waiting.id)
    waiting = server.ended(waiting.id)
    assert waiting.status == "cancelled"
    assert one_record_per_line(server, waiting, lines) == {"batch_cancelled": 5}
    assert server.client.batches.retrieve(running.id).status == "in_progress"
    server.client.batches.cancel(running.id)
    server.ended(running.id)


def test_a_window_that_ends(server: Server) -> None:
    lines = long_lines(1500)
    batch = server.submit(lines, completion_window="3s")
    assert batch.expires_at == batch.created_at + 3
    batch = server.ended(batch.id)
    assert (batch.status, batch.completed_at) == ("expired", None)
    assert batch.expired_at is not None
    assert batch.expired_at >= batch.expires_at
    assert set(one_record_per_line(server, batch, lines)) == {"batch_expired"}


def test_lower_priority_runs_first(server: Server) -> None:
    first = server.submit(long_lines(100))
    server.until(first.id, begun)
    later = server.submit(chats(3), extra_body={"priority": 5})
    sooner = server.submit(chats(3), extra_body={"priority": -5})
    server.client.batches.cancel(first.id)
    ends = [server.ended(batch.id) for batch in (sooner, later)]
    paths = [server.folder / "data" / "batches" / b.id / "output.jsonl" for b in ends]
    assert paths[0].stat().st_mtime_ns < paths[1].stat().st_mtime_ns


def test_a_file_is_deleted_while_its_batch_runs(server: Server) -> None:
    lines = long_lines(60)
    batch = server.submit(lines)
    server.client.files.delete(batch.input_file_id)
    batch = server.ended(batch.id)
    assert batch.status == "completed"
    assert one_record_per_line(server, batch, lines) == {}


def test_the_engine_is_killed(server: Server) -> None:
    lines = long_lines(60)
    batch = server.submit(lines)
    server.until(batch.id, begun)
    pid = server.child()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = re.compile(r"^shoal:engine_restarts_total{.*} 1$", re.MULTILINE)
    server.wait(lambda: again.search(server.raw("GET", "/metrics")[1]) is not None)
    batch = server.ended(batch.id)
    assert batch.status == "completed"
    assert one_record_per_line(server, batch, lines) == {}


def test_a_graceful_stop(tmp_path: Path) -> None:
    """The batch goes on at the next start; what a kill would leave of uploads goes."""
    lines = long_lines(60)
    with serving(tmp_path) as server:
        batch = server.submit(lines)
        server.until(batch.id, begun)
        assert server.stop() == 0
        before = len(records_in_journal(tmp_path, batch.id))
        assert before > 0
        left = tmp_path / "data" / "files" / ".upload-file-1"
        left.write_bytes(b"half")
        rowless = tmp_path / "data" / "files" / "file-2"
        rowless.write_bytes(b"whole, but the row is missing")
        server.start()
        assert not left.exists()
        assert not rowless.exists()
        assert server.client.batches.retrieve(batch.id).status == "in_progress"
        assert [file.id for file in server.client.files.list()] == [batch.input_file_id]
        batch = server.ended(batch.id)
        assert batch.status == "completed"
        assert not one_record_per_line(server, batch, lines)


def records_in_journal(folder: Path, id: str) -> list[bytes]:
    journal = folder / "data" / "batches" / id / "output.jsonl.journal"
    return [line for line in journal.read_bytes().splitlines() if b" done " in line]
