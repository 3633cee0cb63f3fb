"""Files of the API: their rows, and their contents below the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from shoal.server.messages import drop_pictures
from shoal.server.store.api_errors import not_found
from shoal.server.store.database import Database, StoredBatch, StoredFile
from shoal.server.store.objects import MOST_KEPT_SECONDS
from shoal.server.store.states import UNFINISHED
from shoal.server.store.wall_clock import now

FOLDER, BATCHES_FOLDER = "files", "batches"
_TEMPORARY = ".upload-"


class NewUpload:
    """Content that is arriving, under a temporary name until it is whole and on the disk."""

    def __init__(self, root: Path) -> None:
        self.id = f"file-{secrets.token_hex(12)}"
        self.path = f"{FOLDER}/{self.id}"
        self.size = 0
        self._final = root / self.path
        self._temporary = self._final.with_name(f"{_TEMPORARY}{self.id}")
        self._file = self._temporary.open("xb", buffering=0)

    def write(self, data: bytes | bytearray) -> None:
        """Append; OSError when the disk refuses."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)

    def keep(self) -> None:
        """Make it last under its own name."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._final)
        folder = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Take away what is not kept. Idempotent."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class Files:
    """All files of a server."""

    def __init__(self, database: Database, root: Path) -> None:
        """Make the folder, and take away what a kill left of uploads."""
        self.database = self._database = database
        self.root = root
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        for left in (root / FOLDER).glob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)
        with database.transaction() as session:
            known = set(session.scalars(select(StoredFile.path)))
        for path in (root / FOLDER).iterdir():  # renamed, but killed before there was a row
            if f"{FOLDER}/{path.name}" not in known:
                path.unlink(missing_ok=True)

    def new(self) -> NewUpload:
        """A place for an upload."""
        return NewUpload(self.root)

    def add(self, upload: NewUpload, owner: str, filename: str, kept_seconds: int) -> StoredFile:
        """The row of an upload that was kept."""
        created = now()
        file = StoredFile(
            id=upload.id,
            owner=owner,
            bytes=upload.size,
            created_at=created,
            expires_at=created + kept_seconds,
            filename=filename,
            purpose="batch",
            path=upload.path,
            deleted=False,
        )
        with self._database.transaction() as session:
            session.add(file)
        return file

    def get(self, owner: str, id: str) -> StoredFile:
        """A file of this owner.

        Raises:
            ApiError: 404: there is none.
        """
        with self._database.transaction() as session:
            file = session.scalar(select(StoredFile).where(seen_by(owner), StoredFile.id == id))
        if file is None:
            raise not_found("File object", id)
        return file

    def page(
        self, owner: str, after: str | None, limit: int, ascending: bool, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """A page of an owner's files, and whether there are more.

        Raises:
            ApiError: 404: `after` is no file.
        """
        order = StoredFile.number.asc() if ascending else StoredFile.number.desc()
        query = select(StoredFile).where(seen_by(owner)).order_by(order).limit(limit + 1)
        if purpose is not None:
            query = query.where(StoredFile.purpose == purpose)
        with self._database.transaction() as session:
            if after is not None:
                last = select(StoredFile.number).where(
                    StoredFile.owner == owner, StoredFile.id == after
                )
                number = session.scalar(last)
                if number is None:
                    raise not_found("File object", after, "after")
                later = StoredFile.number > number if ascending else StoredFile.number < number
                query = query.where(later)
            found = list(session.scalars(query))
        return found[:limit], len(found) > limit

    def delete(self, owner: str, id: str) -> None:
        """Hide a file and its prompts' pictures; its content goes with `sweep`. Raises as `get`."""
        self.get(owner, id)
        with self._database.transaction() as session:
            file = session.scalar(select(StoredFile).where(seen_by(owner), StoredFile.id == id))
            if file is not None:
                file.deleted = True
                self._drop_pictures(session, file.path)

    def content(self, file: StoredFile) -> Path:
        """Where its content is."""
        return self.root / file.path

    def sweep(self) -> None:
        """Take away the contents of deleted and expired files that no batch still reads."""
        with self._database.transaction() as session:
            used = select(StoredBatch.input_path).where(StoredBatch.status.in_(UNFINISHED))
            gone = StoredFile.deleted | (StoredFile.expires_at <= now())
            for file in session.scalars(
                select(StoredFile).where(gone, StoredFile.path.not_in(used))
            ):
                self._drop_pictures(session, file.path)
                (self.root / file.path).unlink(missing_ok=True)
                session.delete(file)

    def _drop_pictures(self, session: Session, path: str) -> None:
        """Of the plans that a batch of this input file took part in: they show its texts."""
        for id in session.scalars(select(StoredBatch.id).where(StoredBatch.input_path == path)):
            drop_pictures(self.root / BATCHES_FOLDER / id)


def kept_seconds(asked: int | None) -> int:
    """How long a file is kept."""
    return MOST_KEPT_SECONDS if asked is None else asked


def seen_by(owner: str) -> ColumnElement[bool]:
    """Files that this owner sees."""
    lasting = StoredFile.expires_at.is_(None) | (StoredFile.expires_at > now())
    return (StoredFile.owner == owner) & StoredFile.deleted.is_(False) & lasting
