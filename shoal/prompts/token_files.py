"""Files of token ids, memory-mapped: a job may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrow import require_pyarrow
from shoal.errors import InvalidRequestError, JobError, OptionError
from shoal.prompts.token_columns import TokenColumns

TOKEN_SUFFIXES = frozenset({".arrow", ".npy"})
"""Names of files that hold token ids end in one of these."""
ARROW_COLUMN = "prompt_token_ids"
OFFSETS_FILE = "offsets.npy"


def is_token_file(path: Path) -> bool:
    """Whether a file holds token ids, by its name."""
    return path.suffix in TOKEN_SUFFIXES


def open_tokens(path: Path) -> TokenColumns:
    """Open a file of token ids, memory-mapped.

    - `.arrow`: an Arrow IPC file or stream with a column `prompt_token_ids` of list<int32> or
      large_list<int32>. One record batch is viewed in place, several are copied together.
    - `.npy` of two dimensions: a prompt per row, int32.
    - `.npy` of one dimension: all prompts one after another, int32, with `offsets.npy` beside it,
      int64 [N + 1].

    Token ids are not checked, see `TokenColumns.check_vocabulary`.

    Raises:
        JobError: the file cannot be read or holds something else.
        OptionError: pyarrow, which reads `.arrow` files, is not installed.
    """
    arrow = require_pyarrow(f"{path.name} needs") if path.suffix == ".arrow" else None
    try:
        return _open_numpy(path) if arrow is None else _open_arrow(path, arrow)
    except (OSError, EOFError, ValueError) as error:  # Arrow's errors are among these
        raise JobError(f"{path} cannot be read: {error}") from error
    except (InvalidRequestError, OptionError) as error:
        raise JobError(f"{path}: {error}") from error


def _open_numpy(path: Path) -> TokenColumns:
    tokens = _map_numpy(path)
    if tokens.dtype != np.int32 or tokens.ndim not in (1, 2):
        raise OptionError(
            f"token ids must be int32 in one or two dimensions, not {tokens.dtype} in {tokens.ndim}"
        )
    if tokens.ndim == 1:
        return TokenColumns(tokens, np.asarray(_map_numpy(path.with_name(OFFSETS_FILE))))
    if not tokens.flags.c_contiguous:
        raise OptionError("the array is stored column by column; save it in C order")
    rows, length = tokens.shape
    return TokenColumns(tokens.reshape(-1), np.arange(rows + 1, dtype=np.int64) * length)


def _map_numpy(path: Path) -> Any:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.view(np.ndarray) if isinstance(array, np.ndarray) else _refuse_archive()


def _refuse_archive() -> Any:
    raise OptionError("this is an archive of arrays; save one array with numpy.save")


def _open_arrow(path: Path, arrow: Any) -> TokenColumns:
    source = arrow.memory_map(str(path))
    try:
        table = arrow.ipc.open_file(source).read_all()
    except arrow.ArrowInvalid:  # not the file format: perhaps the stream format
        source.seek(0)
        table = arrow.ipc.open_stream(source).read_all()
    if table.column_names.count(ARROW_COLUMN) != 1:
        names = ", ".join(table.column_names) or "none"
        raise OptionError(f"needs one column {ARROW_COLUMN!r}; its columns are: {names}")
    return TokenColumns.from_arrow(table[ARROW_COLUMN])
