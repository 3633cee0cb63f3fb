"""The lines a journal is made of: checksummed, self-framing, readable with ordinary tools.

    shoal-journal-2 <crc32> header 0 {identity of the job}
    shoal-journal-2 <crc32> done 17 {record of line 17, counted from 0}
    ...

A damaged line costs only itself. The checksums of a job start from a key made of its header, so
that a line from another job's journal is damage too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum

MAGIC = b"shoal-journal-2"
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
    files = "files"
    """Digests of files that the job may replace: its own, and those it was told to replace."""
    finished = "finished"
    """The counts of a job whose files are in place, and their digests; the last line."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a journal; `payload` is JSON without newlines."""

    kind: FrameKind
    line: int
    payload: bytes

    def encode(self, key: int = 0) -> bytes:
        """With its checksum and newline; only the header has key 0, the others have `job_key`."""
        body = b"%s %d %s" % (self.kind.encode(), self.line, self.payload)
        return b"%s %08x %s\n" % (MAGIC, zlib.crc32(body, key), body)


def job_key(header: bytes) -> int:
    """What the checksums of a job start from, from its header's payload.

    CRC-32 is injective in its start: the same line has another checksum under every other key.
    """
    return zlib.crc32(header)


def decode_frame(data: bytes, key: int = 0) -> Frame | None:
    """The frame on a line with its newline; None when it is torn, damaged or has another key."""
    magic, _, rest = data.partition(b" ")
    checksum, _, body = rest.partition(b" ")
    if magic != MAGIC or not body.endswith(b"\n"):
        return None
    body = body[:-1]
    if checksum != b"%08x" % zlib.crc32(body, key):
        return None
    kind, line, payload = body.split(b" ", 2)
    return Frame(FrameKind(kind.decode()), int(line), payload)
