"""The batches of one key as its open pages know them: what changed since the last look."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import select

from shoal.server.store import BatchObject, Database, StoredBatch, StoredFile, not_found, states

SHOWN = 50
"""Batches on one page of the list."""


class FollowedBatches:
    """The newest batches, those that run, and those seen before that have not ended.

    `look` costs two queries, whatever the number of pages.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._database, self._owner = database, owner
        self._known: dict[str, bytes] = {}
        self._unfinished: set[str] = set()
        self.more = False

    @property
    def known(self) -> list[bytes]:
        """All of them as JSON objects, newest first."""
        return list(self._known.values())

    def knows(self, id: str) -> bool:
        """Whether it was among them at the last look: one of this key."""
        return id in self._known

    def look(self, running: tuple[str, ...]) -> list[bytes]:
        """Those that are new or have changed, as JSON objects."""
        newest, more = newest_batches(self._database, self._owner, None)
        ids = {batch["id"] for batch in newest}
        others = (self._unfinished | set(running)) - ids
        found = newest + _batches(self._database, self._owner, others)
        texts = {batch["id"]: orjson.dumps(batch) for batch in found}
        changed = [text for id, text in texts.items() if self._known.get(id) != text]
        self._known, self.more = texts, more
        self._unfinished = {b["id"] for b in found if b["status"] in states.UNFINISHED}
        return changed


def newest_batches(
    database: Database, owner: str, after: str | None
) -> tuple[list[dict[str, Any]], bool]:
    """One page of a key's batches as the page shows them, newest first, and whether there are more.

    Raises:
        ApiError: 404: `after` is no batch.
    """
    query = _SHOWN.where(StoredBatch.owner == owner)
    with database.transaction() as session:
        if after is not None:
            mine = select(StoredBatch.number).where(StoredBatch.owner == owner)
            number = session.scalar(mine.where(StoredBatch.id == after))
            if number is None:
                raise not_found("Batch object", after, "after")
            query = query.where(StoredBatch.number < number)
        rows = session.execute(query.order_by(StoredBatch.number.desc()).limit(SHOWN + 1)).all()
    return [_shown(*row) for row in rows[:SHOWN]], len(rows) > SHOWN


def one_batch(database: Database, owner: str, id: str) -> dict[str, Any] | None:
    """A batch as the page shows it; None: there is none."""
    return next(iter(_batches(database, owner, {id})), None)


def _batches(database: Database, owner: str, ids: set[str]) -> list[dict[str, Any]]:
    if not ids:
        return []
    query = _SHOWN.where(StoredBatch.owner == owner, StoredBatch.id.in_(ids))
    with database.transaction() as session:
        rows = session.execute(query.order_by(StoredBatch.number.desc())).all()
    return [_shown(*row) for row in rows]


_SHOWN = select(StoredBatch, StoredFile.filename).outerjoin(
    StoredFile, (StoredFile.id == StoredBatch.input_file_id) & StoredFile.deleted.is_(False)
)


def _shown(batch: StoredBatch, filename: str | None) -> dict[str, Any]:
    """OpenAI's object, with what the page shows besides."""
    shown = BatchObject.of(batch).model_dump()
    return shown | {"filename": filename, "priority": batch.priority}
