"""Read a batch file line by line, in bounded memory whatever the file holds."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shoal.disk import ContentDigest
from shoal.errors import JobError

MAX_LINE_BYTES = 64 * 1024**2
"""A longer line is refused, so that one missing newline cannot exhaust memory."""

_READ_BYTES = 1024**2
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line of the input.

    Attributes:
        number: counted from 1, as editors and error messages do.
        offset: bytes from the beginning of the file to the line's first byte.
        data: the line without its newline; None when it is longer than the limit.
    """

    number: int
    offset: int
    data: bytes | None

    @property
    def blank(self) -> bool:
        """Whether it holds nothing but white space, and so is no request."""
        return self.data is not None and not self.data.strip()


class LineReader:
    """Iterate once over the lines of an open file and digest it on the way.

    The last line may lack its newline. A byte order mark before the first line is skipped.
    """

    def __init__(self, file: BinaryIO, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._file = file
        self._max_line_bytes = max_line_bytes
        self._hash = hashlib.blake2b(digest_size=16)
        self._position = 0

    def __iter__(self) -> Iterator[RawLine]:
        number = 0
        while data := self._read(self._max_line_bytes + 1):
            number += 1
            offset = self._position - len(data)
            if number == 1 and data.startswith(BYTE_ORDER_MARK):
                data = data[len(BYTE_ORDER_MARK) :]
                offset += len(BYTE_ORDER_MARK)
            if data.endswith(b"\n"):
                yield RawLine(number, offset, data[:-1])
            elif len(data) <= self._max_line_bytes:
                yield RawLine(number, offset, data)
            else:
                self._skip_line()
                yield RawLine(number, offset, None)

    @property
    def digest(self) -> ContentDigest:
        """Of everything read so far: of the file, once the iteration has ended."""
        return ContentDigest(self._hash.hexdigest(), self._position)

    def _read(self, limit: int) -> bytes:
        data = self._file.readline(limit)
        self._hash.update(data)
        self._position += len(data)
        return data

    def _skip_line(self) -> None:
        while (data := self._read(_READ_BYTES)) and not data.endswith(b"\n"):
            pass


def open_input(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        JobError: it is missing, unreadable, or not a regular file (it is read more than once).
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise JobError(f"{path} is a folder; give a file in it.")
        if not stat.S_ISREG(mode):
            raise JobError(f"{path} is not a regular file; save what it gives to a file first.")
        return path.open("rb", buffering=_READ_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise JobError(f"cannot read {str(path)!r}: {why}. Is this the right path?") from error


def digest_input(path: Path) -> ContentDigest:
    """Digest a whole file without looking at its lines; raises as `open_input` does."""
    digest = hashlib.blake2b(digest_size=16)
    size = 0
    with open_input(path) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
    return ContentDigest(digest.hexdigest(), size)
