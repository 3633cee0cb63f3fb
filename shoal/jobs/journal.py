"""The journal beside the output: what a job has finished, safe against a kill at any moment.

States of the file: empty or absent (no job), a header and records (a job under way), a header and
a `finished` frame (the job's files are in place). Each change of state is one atomic rename by the
owner of the file, so that a kill leaves one state or the other.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from shoal.disk import (
    ContentDigest,
    open_locked,
    replace_locked,
    sync_directory,
    write_at,
    writes_to,
)
from shoal.errors import InternalError, JobError
from shoal.jobs.frames import MAGIC, Frame, FrameKind, decode_frame, job_key
from shoal.jobs.header import JobHeader
from shoal.types import RequestCounts

GROUP_BYTES = 1024**2
GROUP_SECONDS = 0.5
"""Records are written and synced in groups: after so many bytes or seconds, as comes first."""

_NO_RECORD = -1


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job whose files are in place: its counts, and what the files held then.

    `errors` is None when no request failed, and there is no such file.
    """

    counts: RequestCounts
    output: ContentDigest
    errors: ContentDigest | None

    def to_json(self) -> bytes:
        """One line of JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> FinishedJob:
        """The inverse of `to_json`."""
        values = orjson.loads(data)
        errors = values["errors"]
        return cls(
            RequestCounts(**values["counts"]),
            ContentDigest(**values["output"]),
            None if errors is None else ContentDigest(**errors),
        )

    @property
    def files(self) -> set[ContentDigest]:
        """The contents of its files."""
        return {self.output} | ({self.errors} if self.errors is not None else set())


class Journal:
    """A journal, owned by this process from construction to `close`.

    Reading it back, a torn last line is cut off, and a line that is damaged, of another job or in a
    wrong place is dropped (its request runs again). Records of refused lines are dropped too: the
    next reading of the input refuses them anew, or accepts them, for example with a larger KV pool.

    Attributes:
        header: the job under way or finished, or None.
        finished: what became of a job whose files are in place, or None.
        replaceable: the contents of files that the job may replace.
        dropped_bytes: what was torn or damaged when the journal was read back.
        group_seconds: how long a record may wait to be synced.

    In memory it holds 8 bytes per line.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the journal at `path`.

        Raises:
            OutputLockedError: another run owns it.
            OutputWriteError: it cannot be created.
            JobError: the file is something else.
        """
        self.path = path
        self.header: JobHeader | None = None
        self.finished: FinishedJob | None = None
        self.replaceable: set[ContentDigest] = set()
        self.dropped_bytes = 0
        self.group_seconds = GROUP_SECONDS
        self._offsets = array("q")
        self._kinds: Counter[FrameKind] = Counter()
        self._buffer = bytearray()
        self._size = 0
        self._key = 0
        self._header_bytes = 0
        self._synced_at = time.monotonic()
        self._fd = open_locked(path)
        try:
            self._read_back()
        except BaseException:
            self.close()
            raise

    def begin(self, header: JobHeader, replaceable: Collection[ContentDigest] = ()) -> None:
        """Start a job, dropping whatever the journal held."""
        begun = Frame(FrameKind.header, 0, header.to_json()).encode()
        key = job_key(header.to_json())
        if replaceable:
            begun += _files_frame(replaceable).encode(key)
        self._replace(begun)
        self.header, self.finished, self._key = header, None, key
        self.replaceable = set(replaceable)
        self._offsets = array("q")
        self._kinds.clear()

    def allow(self, replaceable: Collection[ContentDigest]) -> None:
        """Let the job replace files with these contents from now on, whatever happens."""
        self._buffer += _files_frame(replaceable).encode(self._key)
        self.flush()
        self.replaceable |= set(replaceable)

    def finish(
        self, counts: RequestCounts, output: ContentDigest, errors: ContentDigest | None
    ) -> None:
        """Mark the job as finished and drop its records, which now are in the job's files."""
        if self.header is None:
            raise InternalError(f"{self.path} has no job to finish")
        job = FinishedJob(counts, output, errors)
        header = Frame(FrameKind.header, 0, self.header.to_json())
        finished = Frame(FrameKind.finished, 0, job.to_json())
        self._replace(header.encode() + finished.encode(self._key))
        self.finished = job

    def discard(self) -> None:
        """Remove the file: for a job that is refused before it began."""
        with writes_to(self.path):
            self.path.unlink()
            sync_directory(self.path)

    def has_record(self, line: int) -> bool:
        """Whether a line, counted from 0, has a record."""
        return line < len(self._offsets) and self._offsets[line] != _NO_RECORD

    @property
    def counts(self) -> RequestCounts:
        """Lines with a record, by outcome."""
        done, total = self._kinds[FrameKind.done], self._kinds.total()
        return RequestCounts(total=total, succeeded=done, failed=total - done)

    def append(self, kind: FrameKind, line: int, record: bytes) -> None:
        """Add a line's record; it is safe after the next `flush`.

        Raises:
            InternalError: the line has a record.
            OutputWriteError: a group was due and the disk refused it.
        """
        if self.has_record(line):
            raise InternalError(f"line {line + 1} has two records")
        self._note(kind, line, self._size + len(self._buffer))
        self._buffer += Frame(kind, line, record).encode(self._key)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write and sync what was appended if it is much or old."""
        waited = time.monotonic() - self._synced_at
        if len(self._buffer) >= GROUP_BYTES or (self._buffer and waited >= self.group_seconds):
            self.flush()

    def flush(self) -> None:
        """Write and sync all that was appended.

        Raises:
            OutputWriteError: the disk refused; the journal is as after the last flush.
        """
        if not self._buffer:
            return
        with writes_to(self.path):
            try:
                write_at(self._fd, self._buffer, self._size)
                os.fsync(self._fd)
            except OSError:
                with suppress(OSError):  # else the torn end is cut off when it is read back
                    os.ftruncate(self._fd, self._size)
                raise
        self._size += len(self._buffer)
        self._buffer.clear()
        self._synced_at = time.monotonic()

    def records(self, lines: Iterable[int]) -> Iterator[Frame]:
        """The flushed records of these lines, in that order.

        Raises:
            InternalError: a line has none.
            JobError: the disk gives back something else than was written.
        """
        with os.fdopen(os.dup(self._fd), "rb") as file:
            for line in lines:
                if not self.has_record(line):
                    raise InternalError(f"line {line + 1} has no record")
                file.seek(self._offsets[line])
                frame = decode_frame(file.readline(), self._key)
                if frame is None or frame.line != line:
                    raise JobError(
                        f"the record of line {line + 1} in {self.path} is damaged. Run the same "
                        "command again: that request alone is repeated."
                    )
                yield frame

    def close(self) -> None:
        """Give up ownership. What was not flushed is lost."""
        os.close(self._fd)

    def _replace(self, data: bytes) -> None:
        self._fd = replace_locked(self._fd, self.path, data, MAGIC)
        self._size = len(data)
        self._buffer.clear()

    def _note(self, kind: FrameKind, line: int, offset: int) -> None:
        if line >= len(self._offsets):
            self._offsets.extend(array("q", [_NO_RECORD]) * (line + 1 - len(self._offsets)))
        self._offsets[line] = offset
        self._kinds[kind] += 1

    def _read_back(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            for data in file:
                if self._size == 0:
                    self.header = self._header(data)
                elif not self._accept(decode_frame(data, self._key)):
                    self.dropped_bytes += len(data)
                if not data.endswith(b"\n"):
                    with writes_to(self.path):
                        os.ftruncate(self._fd, self._size)
                    break
                self._size += len(data)

    def _accept(self, frame: Frame | None) -> bool:
        """Take in a line that is not the first; False when it is none or does not belong there."""
        if frame is None or self.finished is not None:
            return False
        match frame.kind:
            case FrameKind.done | FrameKind.failed:
                if self.has_record(frame.line):
                    return False
                self._note(frame.kind, frame.line, self._size)
            case FrameKind.finished:
                if self._size != self._header_bytes:
                    return False
                self.finished = FinishedJob.from_json(frame.payload)
            case FrameKind.files:
                self.replaceable |= {ContentDigest(**file) for file in orjson.loads(frame.payload)}
            case FrameKind.header:
                return False
            case FrameKind.rejected:
                pass
        return True

    def _header(self, data: bytes) -> JobHeader:
        frame = decode_frame(data)
        try:
            if frame is not None and frame.kind is FrameKind.header:
                self._key = job_key(frame.payload)
                self._header_bytes = len(data)
                return JobHeader.from_json(frame.payload)
        except TypeError:  # a field came or went from one version to the next
            pass
        raise JobError(
            f"{self.path} is not a journal of this version of Shoal, or its beginning is "
            "damaged. Move it away to start the job over."
        )


def _files_frame(files: Collection[ContentDigest]) -> Frame:
    return Frame(FrameKind.files, 0, orjson.dumps([asdict(file) for file in files]))
