"""A table whose rows become prompts, and what the prefix forest saves under given field orders.

A *piece* is one field of one row as it stands in the prompt: its name, its value, what separates
it from the next. A row's prompt is its pieces in some order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.types import Int32Array, Int64Array

Int16Array = npt.NDArray[np.int16]


@dataclass(frozen=True)
class FieldTable:
    """N rows of F fields, in the table's own order.

    Lengths are in any one unit: tokens, or characters as a stand-in for them. No piece of a field
    should be the beginning of another one: what follows it is taken to differ.

    Attributes:
        codes: int32 [F, N], each row's value in each field, as its index among the field's
            distinct pieces in sorted order.
        lengths: per field int32 [distinct values], length of the piece.
        common: per field int32 [distinct values], length that a piece begins alike with the one
            before it in sorted order; 0 for the first. The field's name is part of it.
        group: int32 [N], equal for rows whose prompts are equal before the first piece. Rows of
            two groups share no piece.
    """

    codes: Int32Array
    lengths: Sequence[Int32Array]
    common: Sequence[Int32Array]
    group: Int32Array

    @property
    def num_fields(self) -> int:
        """F."""
        return len(self.codes)

    @property
    def num_rows(self) -> int:
        """N."""
        return int(self.codes.shape[1])

    def row_lengths(self, field: int) -> Int32Array:
        """Length of each row's piece of a field, int32 [N]."""
        lengths: Int32Array = self.lengths[field][self.codes[field]]
        return lengths

    def total_length(self) -> int:
        """Length of all pieces of all rows."""
        return sum(int(self.row_lengths(f).sum(dtype=np.int64)) for f in range(self.num_fields))


def fixed_orders(table: FieldTable, order: Sequence[int] | None = None) -> Int16Array:
    """The same order for every row, int16 [N, F]; the table's own if none is given."""
    chosen = np.arange(table.num_fields) if order is None else np.asarray(order)
    return np.tile(chosen.astype(np.int16), (table.num_rows, 1))


def saved_length(table: FieldTable, orders: Int16Array) -> int:
    """What the prefix forest saves on the pieces, exactly: the length of equal beginnings.

    In sorted order the forest's nodes have a total length of

        sum over rows of (length of the row - what it begins alike with the row before),

    so what is saved is the sum of what neighbours have in common. Names of different fields
    count as different from their first letter on.

    Args:
        orders: int16 [N, F], each row a permutation of the fields.
    """
    if table.num_rows < 2 or not table.num_fields:
        return 0
    sizes = np.array([len(lengths) for lengths in table.lengths])
    base = np.cumsum(sizes) - sizes
    codes = np.take_along_axis(table.codes, orders.T.astype(np.intp), axis=0)
    symbols = base.astype(np.int32)[orders.T] + codes
    by_text = np.lexsort([*symbols[::-1], table.group])
    symbols, group = symbols[:, by_text], table.group[by_text]

    lengths = np.concatenate(list(table.lengths))
    alike = group[1:] == group[:-1]
    saved = 0
    for position in range(table.num_fields):
        before, after = symbols[position, :-1], symbols[position, 1:]
        same = alike & (before == after)
        saved += int(lengths[after[same]].sum(dtype=np.int64))
        parted = np.flatnonzero(alike & ~same)
        saved += _common_beginnings(table, base, before[parted], after[parted])
        alike = same
    return saved


def _common_beginnings(
    table: FieldTable, base: Int64Array, before: Int32Array, after: Int32Array
) -> int:
    """Sum of what pieces `before` and `after` (symbols, ascending) begin alike with."""
    field = np.searchsorted(base, before, side="right") - 1
    one_field = field == np.searchsorted(base, after, side="right") - 1
    total = 0
    for f in np.unique(field[one_field]):
        chosen = one_field & (field == f)
        low, high = before[chosen] - base[f] + 1, after[chosen] - base[f]
        total += int(_range_minimum(table.common[f], low, high).sum(dtype=np.int64))
    return total


def _range_minimum(values: Int32Array, low: Int64Array, high: Int64Array) -> Int32Array:
    """min(values[low:high + 1]) of each range; windows of 1, 2, 4, ... answer those they cover.

    Two windows of the largest power of two that fits cover a range (a sparse table, one row of it
    at a time).
    """
    result = np.empty(len(low), dtype=values.dtype)
    exponent = np.frexp((high - low + 1).astype(np.float64))[1] - 1
    window, width = values, 1
    for e in range(int(exponent.max(initial=0)) + 1):
        chosen = exponent == e
        first, last = low[chosen], high[chosen] - width + 1
        result[chosen] = np.minimum(window[first], window[last])
        window = np.minimum(window[:-width], window[width:])
        width *= 2
    return result
