"""The tables: what clients were told of files and batches. SQLite in WAL mode, or another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import JSON, BigInteger, Engine, Index, Integer, String, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from shoal.errors import OptionError

BUSY_SECONDS = 30
"""How long a transaction of SQLite waits for another process's, unless the URL has `timeout`."""
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Of all tables."""


class Setting(Base):
    """A value that the data directory was made with."""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


class StoredFile(Base):
    """A file of the API.

    Attributes:
        number: in the order they came.
        owner: the digest of the key that it belongs to; empty without keys.
        path: of the content, below the data directory.
        deleted: clients see it no more; the content goes when no batch reads it.
    """

    __tablename__ = "files"
    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(String(255))
    deleted: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (Index("files_of", "owner", "deleted", "number"),)


class StoredBatch(Base):
    """A batch of the API; times are seconds since 1970.

    Attributes:
        number: in the order they came.
        owner: as a file's.
        priority: lower runs first, as in vLLM.
        output_seconds: how long its output is kept; None: 30 days.
        stalls: how often the engine ended in a row without a new result.
    """

    __tablename__ = "batches"
    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    owner: Mapped[str] = mapped_column(String(64))
    endpoint: Mapped[str] = mapped_column(String(64))
    model: Mapped[str | None] = mapped_column(String(512))
    input_file_id: Mapped[str] = mapped_column(String(64))
    input_path: Mapped[str] = mapped_column(String(255))
    completion_window: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(default=0)
    meta: Mapped[dict[str, str] | None] = mapped_column(JSON)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    output_file_id: Mapped[str | None] = mapped_column(String(64))
    error_file_id: Mapped[str | None] = mapped_column(String(64))
    output_seconds: Mapped[int | None]
    stalls: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    in_progress_at: Mapped[int | None] = mapped_column(BigInteger)
    finalizing_at: Mapped[int | None] = mapped_column(BigInteger)
    completed_at: Mapped[int | None] = mapped_column(BigInteger)
    failed_at: Mapped[int | None] = mapped_column(BigInteger)
    expired_at: Mapped[int | None] = mapped_column(BigInteger)
    cancelling_at: Mapped[int | None] = mapped_column(BigInteger)
    cancelled_at: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (
        Index("batches_of", "owner", "number"),
        Index("batches_by_status", "status", "priority", "number"),
    )


class Database:
    """Sessions on one database, made if it is new."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            OptionError: the URL or the database cannot be used.
        """
        try:
            parsed = make_url(url)
            self._engine = create_engine(parsed, **_arguments(parsed))
            if parsed.get_backend_name() == "sqlite":
                event.listen(self._engine, "connect", _prepare_sqlite)
            Base.metadata.create_all(self._engine)
        except (ArgumentError, ImportError, SQLAlchemyError) as error:
            why = str(getattr(error, "orig", None) or error)
            raise OptionError(f"cannot use the database: {why}. Check --database.") from error

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's."""
        return self._engine

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that is committed at the end of the block, or rolled back by an exception."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    waits = {} if "timeout" in url.query else {"timeout": BUSY_SECONDS}
    return {"connect_args": {"check_same_thread": False} | waits}


def _prepare_sqlite(connection: Any, record: object) -> None:
    """WAL: readers never wait for the writer. FULL: what was answered survives a power cut."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
