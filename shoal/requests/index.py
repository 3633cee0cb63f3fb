"""Where each line of the input is, so that its custom_id need not be kept."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import InvalidRequestError, JobChangedError
from shoal.requests.body_fields import endpoint
from shoal.requests.lines import open_input
from shoal.requests.validate import custom_id_of, decode_line
from shoal.types import Int64Array

_DIGEST_BYTES = 16
_BLANK = -1


@dataclass(frozen=True, slots=True)
class LineName:
    """What a record repeats of its line.

    Attributes:
        url: the endpoint, empty if there is none such.
        metadata: of the body, whatever it is.
    """

    custom_id: str
    url: str
    body: dict[str, Any] = field(default_factory=dict)


class LineIndex:
    """Byte offset and custom_id digest of every line; 24 bytes per line.

    Lines are counted from 0. Holds the input file open, to read names back when records are
    written, until it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_input(path)
        self._offsets = array("q")
        self._digests = bytearray()
        self.blank = 0
        """Lines that are blank."""

    def close(self) -> None:
        """Let go of the input file; `name` no longer works."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, offset: int, custom_id: str | None) -> None:
        """Add the next line; `custom_id` is None when it has none."""
        self._offsets.append(offset)
        self._digests += _digest(custom_id)

    def append_blank(self) -> None:
        """Add the next line, which is blank."""
        self.append(_BLANK, None)
        self.blank += 1

    def requests(self) -> Iterator[int]:
        """The lines that are not blank."""
        return (line for line, offset in enumerate(self._offsets) if offset != _BLANK)

    def name(self, line: int) -> LineName:
        """Read back the name of a line that has one.

        Raises:
            JobChangedError: the file no longer holds that line.
        """
        self._file.seek(self._offsets[line])
        try:
            content = decode_line(self._file.readline())
        except InvalidRequestError:
            content = {}
        custom_id = custom_id_of(content)
        start = line * _DIGEST_BYTES
        if custom_id is None or _digest(custom_id) != self._digests[start : start + _DIGEST_BYTES]:
            raise JobChangedError(
                f"line {line + 1} of {self._path} changed while the job ran; restore the file and "
                "run the command again, or start over with --restart."
            )
        body = content.get("body")
        url = endpoint(content.get("url")) or ""
        return LineName(custom_id, url, body if isinstance(body, dict) else {})

    def content(self, line: int) -> tuple[str, dict[str, Any]]:
        """The url and the body of a line; see `name`."""
        name = self.name(line)
        return name.url, name.body

    def lines_of(self, custom_ids: Iterable[str]) -> Int64Array:
        """The line that has each custom_id, the first one of several; -1: none."""
        wanted = np.frombuffer(b"".join(map(_digest, custom_ids)), dtype=np.uint64).reshape(-1, 2)
        digests = np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, 2)
        if not len(digests):
            return np.full(len(wanted), -1, dtype=np.int64)
        order = np.argsort(digests[:, 0], kind="stable")
        found = np.searchsorted(digests[order, 0], wanted[:, 0])
        line = order[np.minimum(found, len(order) - 1)]
        return np.where((digests[line] == wanted).all(axis=1), line, -1)

    def duplicates(self) -> tuple[Int64Array, Int64Array]:
        """Lines whose custom_id an earlier line has, in order, and that first line for each."""
        digests = np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, 2)
        named = np.flatnonzero(digests.any(axis=1))
        order = named[np.lexsort((digests[named, 0], digests[named, 1]))]
        ordered = digests[order]
        starts = np.ones(len(order), dtype=np.bool_)
        starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first = order[starts][np.cumsum(starts) - 1]
        lines, firsts = order[~starts], first[~starts]
        by_line = np.argsort(lines)
        return lines[by_line], firsts[by_line]


def _digest(custom_id: str | None) -> bytes:
    """128 bits, all zero for none: two of 10^9 names collide with probability 10^-21."""
    if custom_id is None:
        return bytes(_DIGEST_BYTES)
    return hashlib.blake2b(custom_id.encode(), digest_size=_DIGEST_BYTES).digest()
