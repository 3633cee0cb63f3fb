"""What a job's results are written as: JSON lines, or the table that the file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from shoal.arrow import require_pyarrow
from shoal.disk import NewFile
from shoal.errors import OptionError
from shoal.results.records import RECORD_BEGINS

_PARQUET = ".parquet"
_PARQUET_BEGINS = b"PAR1"
_NOT_WRITTEN = (".csv", ".tsv", ".xlsx", ".arrow", ".feather")
"""Names that promise something else than JSON lines."""


class ResultsFile(Protocol):
    """Takes a job's output records in input order."""

    def add(self, line: int, record: bytes) -> None:
        """Append the record of a line, counted from 0.

        Raises:
            OutputWriteError: the disk refused.
        """

    def close(self) -> None:
        """Give the file all there is; it is whole then, and not synced yet.

        Raises:
            OutputWriteError: the disk refused.
        """


OpenResults = Callable[[NewFile], ResultsFile]
"""Begins the results in a new file."""


class JsonLines:
    """The records as they are, one per line."""

    def __init__(self, file: NewFile) -> None:
        self._file = file

    def add(self, line: int, record: bytes) -> None:
        """As `ResultsFile.add`."""
        self._file.write(record + b"\n")

    def close(self) -> None:
        """As `ResultsFile.close`."""


def is_parquet(output: Path) -> bool:
    """Whether results of that name are a Parquet table."""
    return output.suffix.lower() == _PARQUET


def results_begin(output: Path) -> bytes:
    """How results of that name always begin."""
    return _PARQUET_BEGINS if is_parquet(output) else RECORD_BEGINS


def check_format(output: Path) -> None:
    """Refuse a name that promises a format which is not written.

    Raises:
        OptionError: it does, or pyarrow is missing for Parquet.
    """
    if output.suffix.lower() in _NOT_WRITTEN:
        raise OptionError(
            f"{output} would not be what its name says: results are JSON lines, or Parquet. Name "
            "it *.jsonl or *.parquet."
        )
    if is_parquet(output):
        require_pyarrow("results in Parquet need", "name the output *.jsonl")
