"""Batches that end early or are interrupted: cancelled, expired, stopped, killed."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.server.server_process import ENDED, Server, chats, serving


def long_lines(count: int = 400) -> list[dict[str, Any]]:
    """Lines that take the engine a while, the first results apart, which come soon."""
    lines = chats(count, ignore_eos=True)
    for number, line in enumerate(lines):
        line["body"]["max_tokens"] = 400 if number % 8 else 4
    return lines


def begun(batch: Batch) -> bool:
    assert batch.request_counts is not None
    return batch.request_counts.completed > 0


def one_record_per_line(server: Server, batch: Batch, lines: list[Any]) -> Counter[str]:
    """Checks that; the codes of the error records' errors, with how many there are."""
    done = server.records(batch.output_file_id)
    failed = server.records(batch.error_file_id)
    names = Counter(record["custom_id"] for record in [*done, *failed])
    assert names == Counter(line["custom_id"] for line in lines)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (len(done), len(failed))
    assert counts.total == len(lines)
    assert all(record["response"]["status_code"] == 200 for record in done)
    for record in failed:
        assert record["response"] is None or record["error"] is None
    return Counter(record["error"]["code"] for record in failed if record["error"] is not None)


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
    batch = server.submit(lines, completion_window="6s")
    assert batch.expires_at == batch.created_at + 6
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
    lines = long_lines(60)
    with serving(tmp_path) as server:
        batch = server.submit(lines)
        server.until(batch.id, begun)
        assert server.stop() == 0
        before = len(records_in_journal(tmp_path, batch.id))
        assert before > 0
        server.start()
        assert server.client.batches.retrieve(batch.id).status == "in_progress"
        batch = server.ended(batch.id)
        assert batch.status == "completed"
        assert not one_record_per_line(server, batch, lines)


def records_in_journal(folder: Path, id: str) -> list[bytes]:
    journal = folder / "data" / "batches" / id / "output.jsonl.journal"
    return [line for line in journal.read_bytes().splitlines() if b" done " in line]


def wait_for_results(server: Server, ids: list[str]) -> None:
    """Until a journal grows, or none will: a busy machine is slow to load the model."""

    def sizes() -> list[int]:
        paths = [server.folder / "data" / "batches" / id / "output.jsonl.journal" for id in ids]
        return [path.stat().st_size if path.exists() else 0 for path in paths]

    before = sizes()
    server.wait(lambda: sizes() != before or not unfinished(server))


def unfinished(server: Server) -> list[str]:
    return [batch.id for batch in server.client.batches.list() if batch.status not in ENDED]


KINDS = ("completed", "failed", "cancelled", "expired", "completed")


@dataclass(frozen=True)
class Tried:
    """A batch that lives among kills; `ends` are those that it may come to."""

    id: str
    lines: list[Any]
    ends: set[str]

    @classmethod
    def submit(cls, server: Server, rng: random.Random, kind: str) -> Tried:
        lines: list[Any] = long_lines(rng.randint(20, 120))
        if kind == "failed":
            lines = [*chats(5), b"no JSON"]
        window = f"{rng.randint(2, 8)}s" if kind == "expired" else "24h"
        batch = server.submit(lines, completion_window=window)
        ends = {kind} if kind == "failed" else {kind, "completed"}
        return cls(batch.id, lines, ends)

    def check(self, server: Server) -> None:
        batch = server.ended(self.id, 600)
        assert batch.status in self.ends
        if batch.status == "failed":
            assert (batch.output_file_id, batch.error_file_id) == (None, None)
            return
        codes = one_record_per_line(server, batch, self.lines)
        assert set(codes) <= {f"batch_{batch.status}"}


def kill_often(folder: Path, kills: int, seed: int, rests: int = 2) -> Counter[str]:
    """SIGKILL to a process of the server, while batches are in any status.

    Before every `rests`-th kill a batch gets results; only there it may be the engine, which would
    be given up else. Returns the statuses that batches were in when something was killed.
    """
    rng, seen = random.Random(seed), Counter[str]()
    tried: list[Tried] = []
    with serving(folder) as server:
        for number in range(kills):
            while len(waiting := unfinished(server)) < 3:
                tried.append(Tried.submit(server, rng, KINDS[len(tried) % len(KINDS)]))
            for each in tried:
                if "cancelled" in each.ends and each.id in waiting and rng.random() < 0.3:
                    with suppress(openai.ConflictError):  # it has just ended
                        server.client.batches.cancel(each.id)
            victims = ["shoal-clerk", "server", "server"]
            if number % rests == rests - 1:
                wait_for_results(server, waiting)
                victims.append("shoal-engine")
            time.sleep(rng.uniform(0, 2) * rng.random())
            seen.update(batch.status for batch in server.client.batches.list())
            if (pid := server.child(rng.choice(victims))) is not None:
                os.kill(pid, signal.SIGKILL)
            else:
                server.kill()
                server.start()
        for each in tried:
            each.check(server)
    return seen


def test_kills(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("tries", 10)
    seen = kill_often(tmp_path, 10, seed=1, rests=5)
    assert set(seen) > {"in_progress", "failed"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.timeout(3600)
def test_many_kills(
    tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", 20)
    record_property("statuses", dict(kill_often(tmp_path, 20, seed)))


def test_unfinished_uploads_go_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.kill()
        left = tmp_path / "data" / "files" / ".upload-file-1"
        left.write_bytes(b"half")
        rowless = tmp_path / "data" / "files" / "file-2"
        rowless.write_bytes(b"whole, but the row is missing")
        server.start()
        assert not left.exists()
        assert not rowless.exists()
        assert list(server.client.files.list()) == []
