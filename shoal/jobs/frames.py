"""The lines a journal is made of: checksummed, self-framing, readable with ordinary tools.

    shoal-journal-1 <crc32> header 0 {identity of the job}
    shoal-journal-1 <crc32> done 17 {record of line 17, counted from 0}
    ...

A damaged line costs only itself.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

MAGIC = b"shoal-journal-1"
"""Begins every line; its number is the format's version."""


class FrameKind(StrEnum):
    """What a journal's line holds."""

    header = "header"
    """The job's identity; always the first line."""
    done = "done"
    """The record of a request that succeeded."""
    failed = "failed"
    """The error record of a request that ran and failed."""
    rejected = "rejected"
    """The error record of a line refused while reading; refused anew by every run."""
    finished = "finished"
    """The counts of a job whose files are in place; the last line of its journal."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a journal; `payload` is JSON without newlines."""

    kind: FrameKind
    line: int
    payload: bytes

    def encode(self) -> bytes:
        """With its checksum and newline."""
        body = b"%s %d %s" % (self.kind.encode(), self.line, self.payload)
        return b"%s %08x %s\n" % (MAGIC, zlib.crc32(body), body)


def decode_frame(data: bytes) -> Frame | None:
    """The frame on a line with its newline, or None when it is torn or damaged."""
    magic, _, rest = data.partition(b" ")
    checksum, _, body = rest.partition(b" ")
    if magic != MAGIC or not body.endswith(b"\n"):
        return None
    body = body[:-1]
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    kind, line, payload = body.split(b" ", 2)
    return Frame(FrameKind(kind.decode()), int(line), payload)
