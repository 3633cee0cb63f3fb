"""A table's rows once more, beside what was made of them: in order, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import JobChangedError
from shoal.tables.table import TableFile


class KeptRows:
    """Reads a table as it is given, every column in its own type; text, where it is CSV.

    Raises:
        OptionError, JobError: as `TableFile`.
    """

    def __init__(self, path: Path) -> None:
        self._file = TableFile(path)
        self.schema: Any = self._file.arrow_schema()
        self._batches: Iterator[Any] = self._file.batches()
        self._batch: Any = None
        self._start = 0

    def take(self, rows: Sequence[int]) -> Any:
        """These rows as a pyarrow Table.

        Args:
            rows: counted from 0, increasing, all of them after those taken before.

        Raises:
            JobChangedError: the table has fewer rows.
            JobError: the file is damaged.
        """
        import pyarrow as pa

        wanted, taken = np.asarray(rows, dtype=np.int64), []
        while len(wanted):
            if self._batch is None or wanted[0] >= self._start + len(self._batch):
                self._advance()
                continue
            here = np.searchsorted(wanted, self._start + len(self._batch))
            taken.append(self._batch.take(pa.array(wanted[:here] - self._start)))
            wanted = wanted[here:]
        return pa.Table.from_batches(taken, schema=self.schema)

    def _advance(self) -> None:
        self._start += 0 if self._batch is None else len(self._batch)
        self._batch = next(self._batches, None)
        if self._batch is None:
            raise JobChangedError(
                f"{self._file.path} has fewer rows than when the job began; restore the file and "
                "run the command again."
            )
