"""Batches of the API: their rows, and each change of status in one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, bindparam, case, func, or_, select, update
from sqlalchemy.orm import Session

from shoal.server.messages import BatchProgress, BatchTask, batch_error
from shoal.server.store import states
from shoal.server.store.api_errors import DO_NOT_RETRY, ApiError, not_found
from shoal.server.store.database import Database, StoredBatch, StoredFile
from shoal.server.store.files import BATCHES_FOLDER, kept_seconds, seen_by
from shoal.server.store.objects import CreateBatch
from shoal.server.store.wall_clock import now

MOST_STALLS = 3
"""The engine's ends in a row without a new result, after which a batch is given up."""


_TABLE = StoredBatch.__table__.c
_NOTE = (
    update(StoredBatch.__table__)  # type: ignore[arg-type]
    .where(
        _TABLE.id == bindparam("batch"),
        or_(*(_TABLE.status == status for status in (*states.RUNNING, states.CANCELLING))),
    )
    .values(
        completed=bindparam("completed"),
        failed=bindparam("failed"),
        stalls=case((bindparam("grown", type_=Boolean), 0), else_=_TABLE.stalls),
    )
)
"""Of many batches at once: five times a second, while others wait for the interpreter."""


class Batches:
    """All batches of a server. The files of each one's job are in a folder of its own."""

    def __init__(self, database: Database, root: Path, most_unfinished: int) -> None:
        """`most_unfinished`: batches of one owner."""
        self._database, self._root, self._most = database, root, most_unfinished
        (root / BATCHES_FOLDER).mkdir(parents=True, exist_ok=True)

    def output_path(self, id: str) -> str:
        """Of a batch's results, below the data directory; the job's journal is beside it."""
        return f"{BATCHES_FOLDER}/{id}/output.jsonl"

    def error_path(self, id: str) -> str:
        """Of a batch's failed requests, below the data directory."""
        return f"{BATCHES_FOLDER}/{id}/errors.jsonl"

    def create(
        self, owner: str, asked: CreateBatch, window_seconds: int, file: StoredFile | None
    ) -> StoredBatch:
        """A new batch. Without a file it fails at once, as the contract wants.

        Raises:
            ApiError: 429: the owner has too many that have not ended.
        """
        created = now()
        batch = StoredBatch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner,
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            input_path="" if file is None else file.path,
            completion_window=asked.completion_window,
            status=states.VALIDATING,
            priority=asked.priority,
            meta=asked.metadata,
            output_seconds=asked.output_expires_after and asked.output_expires_after.seconds,
            created_at=created,
            expires_at=created + window_seconds,
            total=0,
            completed=0,
            failed=0,
            stalls=0,
        )
        if file is None:
            message = f"The file {asked.input_file_id!r} does not exist."
            batch.errors = [batch_error("invalid_request", message, "file_id")]
            batch.status, batch.failed_at = states.FAILED, created
        with self._database.transaction() as session:
            unfinished = select(func.count()).where(
                StoredBatch.owner == owner, StoredBatch.status.in_(states.UNFINISHED)
            )
            if (session.scalar(unfinished) or 0) >= self._most:
                raise ApiError(
                    429,
                    f"You have {self._most} batches that have not ended; wait for one.",
                    code="too_many_batches",
                    headers={"retry-after": "60"},
                )
            session.add(batch)
        return batch

    def get(self, owner: str, id: str) -> StoredBatch:
        """A batch of this owner.

        Raises:
            ApiError: 404: there is none.
        """
        with self._database.transaction() as session:
            return _of(session, owner, id)

    def page(self, owner: str, after: str | None, limit: int) -> tuple[list[StoredBatch], bool]:
        """A page of an owner's batches, newest first, and whether there are more.

        Raises:
            ApiError: 404: `after` is no batch.
        """
        query = select(StoredBatch).where(StoredBatch.owner == owner)
        with self._database.transaction() as session:
            if after is not None:
                mine = select(StoredBatch.number).where(StoredBatch.owner == owner)
                number = session.scalar(mine.where(StoredBatch.id == after))
                if number is None:
                    raise not_found("Batch object", after, "after")
                query = query.where(StoredBatch.number < number)
            found = list(
                session.scalars(query.order_by(StoredBatch.number.desc()).limit(limit + 1))
            )
        return found[:limit], len(found) > limit

    def cancel(self, owner: str, id: str) -> StoredBatch:
        """Ask for a batch to be cancelled; of one that is already, nothing changes.

        Raises:
            ApiError: 404: there is none; 409: it has ended otherwise.
        """
        with self._database.transaction() as session:
            session.execute(
                update(StoredBatch)
                .where(
                    StoredBatch.owner == owner,
                    StoredBatch.id == id,
                    StoredBatch.status.in_((states.VALIDATING, *states.RUNNING)),
                )
                .values(status=states.CANCELLING, cancelling_at=now())
            )
            batch = _of(session, owner, id)
        if batch.status not in (states.CANCELLING, states.CANCELLED):
            raise ApiError(
                409,
                f"Cannot cancel a batch with status {batch.status!r}.",
                code="invalid_status",
                headers=DO_NOT_RETRY,
            )
        return batch

    def for_the_clerk(self) -> list[StoredBatch]:
        """Batches that are new or that are to end, the first that came first."""
        status, ended = StoredBatch.status, StoredBatch.expires_at <= now()
        given_up = ended | (StoredBatch.stalls >= MOST_STALLS)
        query = select(StoredBatch).where(
            status.in_((states.VALIDATING, states.CANCELLING))
            | (status.in_(states.RUNNING) & given_up)
        )
        with self._database.transaction() as session:
            return list(session.scalars(query.order_by(StoredBatch.number)))

    def counts(self) -> dict[str, tuple[int, int, int, int]]:
        """By status: batches, and their requests in all, completed, failed."""
        sums = [
            func.coalesce(func.sum(column), 0)
            for column in (StoredBatch.total, StoredBatch.completed, StoredBatch.failed)
        ]
        query = select(StoredBatch.status, func.count(), *sums).group_by(StoredBatch.status)
        with self._database.transaction() as session:
            return {row[0]: tuple(map(int, row[1:])) for row in session.execute(query)}  # type: ignore[misc]

    def to_run(self) -> list[StoredBatch]:
        """The batches that can run, the one whose turn it is first."""
        query = select(StoredBatch).where(
            StoredBatch.status.in_(states.RUNNING),
            StoredBatch.expires_at > now(),
            StoredBatch.stalls < MOST_STALLS,
        )
        with self._database.transaction() as session:
            ordered = query.order_by(StoredBatch.priority, StoredBatch.number)
            return list(session.scalars(ordered))

    def to_stop(self, ids: Collection[str]) -> list[str]:
        """Those of some batches that must not run on."""
        over = (StoredBatch.status == states.CANCELLING) | (StoredBatch.expires_at <= now())
        with self._database.transaction() as session:
            return list(
                session.scalars(select(StoredBatch.id).where(StoredBatch.id.in_(list(ids)), over))
            )

    def task(self, batch: StoredBatch) -> BatchTask:
        """The job that a batch is."""
        output, errors = self.output_path(batch.id), self.error_path(batch.id)
        root = self._root
        return BatchTask(batch.id, root / batch.input_path, root / output, root / errors)

    def share_texts(self, batches: Sequence[StoredBatch]) -> bool:
        """Whether all are one owner's, who sees all their input files still."""
        owners, paths = {each.owner for each in batches}, {each.input_path for each in batches}
        if len(owners) > 1:
            return False
        seen = select(StoredFile.path).where(seen_by(batches[0].owner), StoredFile.path.in_(paths))
        with self._database.transaction() as session:
            return set(session.scalars(seen)) == paths

    def note(self, progress: Sequence[BatchProgress], before: Mapping[str, int]) -> None:
        """How far batches are that run.

        Args:
            before: requests that each had done when the run began.
        """
        told = [
            {
                "batch": each.batch,
                "completed": each.done - each.failed,
                "failed": each.failed,
                "grown": each.done > before.get(each.batch, each.done),
            }
            for each in progress
        ]
        ids = [each.batch for each in progress]
        with self._database.transaction() as session:
            session.connection().execute(_NOTE, told)
            session.execute(
                update(StoredBatch)
                .where(
                    StoredBatch.id.in_(ids),
                    StoredBatch.status == states.IN_PROGRESS,
                    StoredBatch.total == StoredBatch.completed + StoredBatch.failed,
                )
                .values(status=states.FINALIZING, finalizing_at=now()),
                execution_options={"synchronize_session": False},
            )

    def stalled(self, ids: Collection[str]) -> None:
        """The engine ended while these batches ran."""
        with self._database.transaction() as session:
            session.execute(
                update(StoredBatch)
                .where(StoredBatch.id.in_(list(ids)), StoredBatch.status.in_(states.RUNNING))
                .values(stalls=StoredBatch.stalls + 1)
            )

    def change(self, id: str, allowed: Sequence[str], **values: Any) -> bool:
        """Set values of a batch if its status is one of those allowed; whether it was."""
        with self._database.transaction() as session:
            found = session.execute(
                update(StoredBatch)
                .where(StoredBatch.id == id, StoredBatch.status.in_(allowed))
                .values(**values)
            )
            return bool(found.rowcount)  # type: ignore[attr-defined]  # of an UPDATE there is one

    def fail(self, id: str, errors: list[dict[str, Any]]) -> None:
        """End a batch of which nothing can be run."""
        self.change(
            id,
            (states.VALIDATING, *states.RUNNING),
            status=states.FAILED,
            failed_at=now(),
            errors=errors,
        )

    def abandon(self, id: str) -> None:
        """End a batch that is to end, and whose files cannot be written any more."""
        ended = now()
        cancelled = {"status": states.CANCELLED, "cancelled_at": ended}
        if not self.change(id, (states.CANCELLING,), **cancelled):
            self.change(id, states.RUNNING, status=states.EXPIRED, expired_at=ended)

    def end(
        self, id: str, completed: int, failed: int, usage: dict[str, Any], *, expired: bool
    ) -> None:
        """A batch whose files are in place: its status follows from what it was."""
        with self._database.transaction() as session:
            batch = session.scalars(select(StoredBatch).where(StoredBatch.id == id)).one()
            if batch.status in states.FINISHED:
                return
            ended = now()
            batch.completed, batch.failed, batch.total = completed, failed, completed + failed
            batch.usage = usage
            if batch.status == states.CANCELLING:
                batch.status, batch.cancelled_at = states.CANCELLED, ended
            elif expired:
                batch.status, batch.expired_at = states.EXPIRED, ended
            else:
                batch.finalizing_at = batch.finalizing_at or ended
                batch.status, batch.completed_at = states.COMPLETED, ended
            if completed:
                path, name = self.output_path(id), f"{id}_output.jsonl"
                batch.output_file_id = self._add_file(session, batch, path, name)
            if failed:
                path, name = self.error_path(id), f"{id}_error.jsonl"
                batch.error_file_id = self._add_file(session, batch, path, name)

    def _add_file(self, session: Session, batch: StoredBatch, path: str, name: str) -> str:
        created = now()
        file = StoredFile(
            id=f"file-{secrets.token_hex(12)}",
            owner=batch.owner,
            bytes=(self._root / path).stat().st_size,
            created_at=created,
            expires_at=created + kept_seconds(batch.output_seconds),
            filename=name,
            purpose="batch_output",
            path=path,
            deleted=False,
        )
        session.add(file)
        return file.id


def _of(session: Session, owner: str, id: str) -> StoredBatch:
    mine = select(StoredBatch).where(StoredBatch.owner == owner, StoredBatch.id == id)
    batch = session.scalar(mine)
    if batch is None:
        raise not_found("Batch object", id)
    return batch
