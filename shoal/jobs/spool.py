"""Requests that are no batch file yet become one beside the output, which then is the input."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.disk import ContentDigest, NewFile
from shoal.requests.lines import digest_input


@dataclass(frozen=True)
class Spool:
    """The lines of a batch file that something else than a plain file gives.

    Attributes:
        chunks: its bytes, in order; iterated once.
        begins: how they always begin; empty when nothing is known.
        kept: the file stays when the job has finished.
        origin: what it is made from, for messages: "rendered from a table".
    """

    chunks: Iterable[bytes]
    origin: str
    begins: bytes = b""
    kept: bool = False

    def write_to(self, file: NewFile) -> ContentDigest:
        """Write all of it, safe on the disk."""
        for chunk in self.chunks:
            file.write(chunk)
        return file.sync()


def remove_spool(path: Path, digest: str) -> None:
    """Remove the requests of a finished job, unless the file holds something else."""
    if path.exists() and digest_input(path).hexdigest == digest:
        with suppress(OSError):
            path.unlink()
