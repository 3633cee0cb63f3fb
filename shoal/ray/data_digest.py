"""What tells one data set's rows from another's, in whatever blocks and order they come."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import orjson

_BYTES = 16


def data_digest(dataset: Any) -> tuple[int, str]:
    """How many rows a ray.data.Dataset has, and a digest of them in 32 hexadecimal digits.

    Reads all rows once. Equal rows in another order, or in other blocks, give the same.
    """
    found = dataset.map_batches(block_digest, batch_size=None, batch_format="pyarrow").take_all()
    total = sum(int(block["digest"], 16) for block in found) % (1 << 8 * _BYTES)
    return sum(block["rows"] for block in found), f"{total:0{2 * _BYTES}x}"


def block_digest(table: Any) -> dict[str, list[Any]]:
    """Rows of a pyarrow table, and the sum of their digests: two equal rows are not one."""
    total = 0
    for row in table.to_pylist():
        text = orjson.dumps(row, default=_plain, option=orjson.OPT_NON_STR_KEYS)
        total += int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest())
    return {"rows": [len(table)], "digest": [f"{total % (1 << 8 * _BYTES):x}"]}


def _plain(value: Any) -> Any:
    """A value that JSON has not."""
    if isinstance(value, bytes):
        return value.hex()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)
