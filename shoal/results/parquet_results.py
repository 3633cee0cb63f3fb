"""Results as a Parquet file, written in parts, in bounded memory."""

from __future__ import annotations

from shoal.disk import NewFile
from shoal.results.result_columns import ResultRow, result_columns, result_row
from shoal.results.survey import Survey
from shoal.tables import KeptRows

GROUP_ROWS = 2**16
GROUP_BYTES = 2**25
"""A row group is written after so many rows, or bytes of records, as comes first."""


class ParquetResults:
    """One row per record, in the order they come.

    Args:
        survey: what the lines of the job ask for.
        kept: the table whose row i is line i; its columns come first.
    """

    def __init__(self, file: NewFile, survey: Survey, kept: KeptRows | None = None) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._survey, self._kept = survey, kept
        before = pa.schema([]) if kept is None else kept.schema
        self._columns = result_columns(survey, before.names)
        self._schema = pa.schema([*before, *(column.field for column in self._columns)])
        self._lines: list[int] = []
        self._rows: list[ResultRow] = []
        self._bytes = 0
        self._sink = _Sink(file)
        self._writer = parquet.ParquetWriter(self._sink, self._schema)

    def add(self, line: int, record: bytes) -> None:
        """As `ResultsFile.add`; with a table, raises as `KeptRows.take` does too."""
        self._rows.append(result_row(record, parse=self._survey.asks_json(line)))
        self._lines.append(line)
        self._bytes += len(record)
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """As `ResultsFile.close`."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        before = [] if self._kept is None else self._kept.take(self._lines).columns
        arrays = [
            pa.array([column.value(row) for row in self._rows], column.kind)
            for column in self._columns
        ]
        self._writer.write_table(pa.Table.from_arrays([*before, *arrays], schema=self._schema))
        self._rows.clear()
        self._lines.clear()
        self._bytes = 0


class _Sink:
    """A new file as pyarrow writes to one."""

    closed = False  # pyarrow asks

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._position = 0

    def write(self, data: bytes) -> int:
        if self._file.is_open:  # a writer that is given up writes once more when it is collected
            self._file.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """`NewFile.sync` does."""

    def close(self) -> None:
        """The file's owner does."""
