"""The picture of a plan shows how prompts begin, so it goes when their file does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from shoal.server.messages.engine_messages import FOREST_FILE
from shoal.server.messages.pictures import put_picture
from shoal.server.store.batches import Batches
from shoal.server.store.database import Database, StoredBatch
from shoal.server.store.files import Files
from shoal.server.store.objects import CreateBatch
from shoal.server.workers.forest_file import ForestFiles
from tests.server.server_process import CHAT_URL, Server, chats


class Kept:
    """What a server keeps, without the server."""

    def __init__(self, root: Path) -> None:
        self.database = Database(f"sqlite:///{root / 'own.db'}")
        self.files, self.root = Files(self.database, root), root
        self.batches = Batches(self.database, root, 10)

    def submit(self, owner: str = "", kept_seconds: int = 3600) -> StoredBatch:
        upload = self.files.new()
        upload.write(b"{}")
        upload.keep()
        file = self.files.add(upload, owner, "in.jsonl", kept_seconds)
        asked = CreateBatch(
            input_file_id=file.id, endpoint=CHAT_URL, completion_window="24h", priority=0
        )
        batch = self.batches.create(owner, asked, 86400, file)
        self.folder(batch).mkdir()
        return batch

    def folder(self, batch: StoredBatch) -> Path:
        return self.batches.task(batch).output.parent

    def draw(self, *batches: StoredBatch, with_texts: bool = True) -> None:
        put_picture([self.folder(batch) for batch in batches], b"{}", with_texts=with_texts)

    def drawn(self, *batches: StoredBatch) -> list[bool]:
        return [(self.folder(batch) / FOREST_FILE).exists() for batch in batches]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.database.close()


def test_pictures_that_show_a_deleted_file_go_with_it(kept: Kept) -> None:
    a, b, c = (kept.submit() for _ in range(3))
    kept.draw(a, b)
    kept.draw(c)
    kept.files.delete("", a.input_file_id)
    assert kept.drawn(a, b, c) == [False, False, True]
    kept.draw(b, c)  # b goes on with another
    assert kept.drawn(b, c) == [True, True]


def test_pictures_of_earlier_runs_go_too(kept: Kept) -> None:
    a, b, c = (kept.submit() for _ in range(3))
    kept.draw(a, b)
    kept.draw(a, c)
    kept.files.delete("", a.input_file_id)
    assert kept.drawn(a, b, c) == [False] * 3


def test_pictures_go_when_a_file_expires(kept: Kept) -> None:
    old, new = kept.submit(kept_seconds=-1), kept.submit()
    kept.draw(old)
    kept.draw(new)
    kept.files.sweep()
    assert kept.drawn(old) == [True]  # it has not ended, and reads the file
    kept.batches.fail(old.id, [])
    kept.files.sweep()
    assert kept.drawn(old, new) == [False, True]


def test_pictures_without_texts_stay(kept: Kept) -> None:
    a, b = kept.submit("one"), kept.submit("two")
    kept.draw(a, b, with_texts=False)
    kept.files.delete("one", a.input_file_id)
    assert kept.drawn(a, b) == [True, True]


def test_texts_are_shared_by_one_owners_files_that_are_there(kept: Kept) -> None:
    a, b, other = kept.submit(), kept.submit(), kept.submit("another")
    assert kept.batches.share_texts([a, b])
    assert not kept.batches.share_texts([a, other])
    assert not kept.batches.share_texts([a, kept.submit(kept_seconds=-1)])
    kept.files.delete("", b.input_file_id)
    assert not kept.batches.share_texts([a, b])
    assert kept.batches.share_texts([a])


def test_a_server_shows_a_picture_until_the_file_is_deleted(server: Server) -> None:
    batch = server.ended(server.submit(chats(4)).id)
    url = f"/live/batches/{batch.id}/forest"
    status, picture, _ = server.raw("GET", url)
    assert status == 200
    assert any("Ticket" in text for *_, text in picture["segments"])
    server.client.files.delete(batch.input_file_id)
    assert server.raw("GET", url)[0] == 204


def test_a_picture_that_cannot_be_made_is_said_once_for_each_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, broken = ForestFiles(), cast(Any, None)
    a, b = tmp_path / "batch_a", tmp_path / "batch_b"
    for folders in ([a], [a], [a, b], [b, a]):
        pictures.write(folders, broken, broken, None)
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(": ")[0] for line in said] == [
        "no picture of the plan could be made for batch_a",
        "no picture of the plan could be made for batch_b",
    ]
