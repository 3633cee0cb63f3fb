"""Tables for relational jobs: columns of a Parquet or CSV file, as text.

Parquet values keep their type until they are written as Arrow casts them to strings (whole numbers
plainly, dates as ISO 8601, true and false). CSV values are text exactly as they stand in the file,
so `007` stays `007`; its first line names the columns, and it has no missing values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrow import require_pyarrow
from shoal.errors import JobError, OptionError
from shoal.types import Int32Array

SUFFIXES = (".parquet", ".csv")
_ROWS_AT_A_TIME = 8192


@dataclass(frozen=True)
class TextColumn:
    """One column: its distinct values, and which of them each row has.

    Attributes:
        values: D texts, no two alike.
        codes: int32 [N], indices into `values`.
    """

    values: list[str]
    codes: Int32Array


class TableFile:
    """A table on disk, opened to read some of its columns.

    Raises:
        OptionError: the name ends in neither .parquet nor .csv, or pyarrow is not installed.
        JobError: it cannot be read, or two columns have one name.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise OptionError(f"the table {path} must be a file named *.parquet or *.csv.")
        require_pyarrow("tables need", "give a batch file instead")
        self.path = path
        self.columns: list[str] = self._read_names()
        if twice := next((n for n in self.columns if self.columns.count(n) > 1), None):
            raise JobError(f"{path}: two columns are named {twice!r}; give each its own name.")

    def read(self, names: Sequence[str], null: str) -> tuple[int, dict[str, TextColumn]]:
        """The number of rows, and the columns asked for.

        Args:
            null: the text of a missing value.

        Raises:
            JobError: the file is damaged, or a column has no text form.
        """
        import pyarrow as pa

        try:
            table = self._read(list(names))
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        return table.num_rows, {name: self._text(table[name], name, null) for name in names}

    def arrow_schema(self) -> Any:
        """The columns and their types, those of a CSV file text."""
        import pyarrow as pa
        from pyarrow import parquet

        if self._is_csv:
            return pa.schema([(name, pa.string()) for name in self.columns])
        return parquet.read_schema(self.path).remove_metadata()

    def batches(self) -> Iterator[Any]:
        """All columns, as record batches of some thousand rows, in order.

        Raises:
            JobError: the file is damaged.
        """
        import pyarrow as pa

        try:
            for batch in self._batches():
                yield batch.replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _read_names(self) -> list[str]:
        import pyarrow as pa
        from pyarrow import csv, parquet

        try:
            if self._is_csv:
                with csv.open_csv(
                    self.path, read_options=_in_order(), parse_options=_csv_syntax()
                ) as reader:
                    return list(reader.schema.names)
            return list(parquet.read_schema(self.path).names)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _read(self, names: list[str]) -> Any:
        from pyarrow import csv, parquet

        if not self._is_csv:
            return parquet.read_table(self.path, columns=names)
        return csv.read_csv(self.path, **self._csv_options()).select(names)

    def _batches(self) -> Iterator[Any]:
        from pyarrow import csv, parquet

        if self._is_csv:
            with csv.open_csv(self.path, **self._csv_options()) as reader:
                yield from reader
        else:
            with parquet.ParquetFile(self.path) as file:
                yield from file.iter_batches(batch_size=_ROWS_AT_A_TIME)

    def _csv_options(self) -> dict[str, Any]:
        import pyarrow as pa
        from pyarrow import csv

        types = dict.fromkeys(self.columns, pa.string())
        return {
            "read_options": _in_order(),
            "parse_options": _csv_syntax(),
            "convert_options": csv.ConvertOptions(column_types=types),
        }

    def _text(self, column: Any, name: str, null: str) -> TextColumn:
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise JobError(f"{self.path}: the column {name!r} is {kind}, which has no text form.")
        try:
            text = pc.cast(column, pa.large_string())
        except pa.ArrowException as error:
            raise JobError(
                f"{self.path}: the column {name!r} ({kind}) has no text form: {error}."
            ) from error
        encoded = pc.fill_null(text, null).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        return TextColumn(encoded.dictionary.to_pylist(), codes)

    def _unreadable(self, error: Exception) -> JobError:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return JobError(f"cannot read the table {self.path}: {why.rstrip('.')}.")


def _in_order() -> Any:
    """Without threads, so that errors name the row."""
    from pyarrow import csv

    return csv.ReadOptions(use_threads=False)


def _csv_syntax() -> Any:
    from pyarrow import csv

    return csv.ParseOptions(newlines_in_values=True)
