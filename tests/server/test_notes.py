"""What the engine tells of its batches is noted: exactly, and at little cost to other threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.server.dispatch.gathering import MOST_BATCHES
from shoal.server.messages.engine_messages import BatchProgress
from shoal.server.store import states
from shoal.server.store.batches import Batches
from shoal.server.store.database import Database, StoredBatch, StoredFile
from shoal.server.store.objects import CreateBatch
from tests.server.server_process import CHAT_URL

FILE = StoredFile(id="file-1", path="files/file-1")


@pytest.fixture
def batches(tmp_path: Path) -> Iterator[Batches]:
    database = Database(f"sqlite:///{tmp_path / 'own.db'}")
    yield Batches(database, tmp_path, 1000)
    database.close()


def begun(batches: Batches, count: int, total: int) -> list[str]:
    asked = CreateBatch(input_file_id="file-1", endpoint=CHAT_URL, completion_window="24h")
    ids = [batches.create("", asked, 3600, FILE).id for _ in range(count)]
    for id in ids:
        batches.change(id, (states.VALIDATING,), status=states.IN_PROGRESS, total=total)
    return ids


def told(batch: StoredBatch) -> tuple[str, int, int, int]:
    return batch.status, batch.completed, batch.failed, batch.stalls


def test_what_is_noted(batches: Batches) -> None:
    a, b, cancelling, gone = begun(batches, 4, total=10)
    batches.stalled([a, b])
    batches.cancel("", cancelling)
    batches.fail(gone, [])
    before = {a: 3, b: 3, cancelling: 0, gone: 0}
    batches.note([BatchProgress(id, 3, 1) for id in before], before)
    ids = (a, b, cancelling, gone)
    assert [told(batches.get("", id)) for id in ids] == [
        (states.IN_PROGRESS, 2, 1, 1),  # nothing new since the engine ended
        (states.IN_PROGRESS, 2, 1, 1),
        (states.CANCELLING, 2, 1, 0),
        (states.FAILED, 0, 0, 0),
    ]
    done = [BatchProgress(a, 10, 2), BatchProgress(b, 9, 2), BatchProgress(cancelling, 10, 0)]
    batches.note(done, before)
    assert [told(batches.get("", id)) for id in ids[:3]] == [
        (states.FINALIZING, 8, 2, 0),
        (states.IN_PROGRESS, 7, 2, 0),
        (states.CANCELLING, 10, 0, 0),
    ]
    assert batches.get("", a).finalizing_at is not None
    assert batches.get("", b).finalizing_at is None


def test_a_note_of_all_batches_of_a_run_costs_little(batches: Batches) -> None:
    """It is written five times a second; a statement for each batch took a tenth of a second."""
    ids = begun(batches, MOST_BATCHES, total=100)
    before = dict.fromkeys(ids, 0)
    batches.note([BatchProgress(id, 1, 0) for id in ids], before)
    began = time.process_time()
    for done in range(2, 12):
        batches.note([BatchProgress(id, done, 0) for id in ids], before)
    assert (time.process_time() - began) / 10 < 0.03
    assert batches.get("", ids[-1]).completed == 11
