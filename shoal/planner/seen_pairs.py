"""How many pairs of a row and a key there are where layers see all that is before, or a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.types import Int64Array
from shoal.work import Window


def pairs_before(window: Window | None, rows: Int64Array, keys: Int64Array) -> Int64Array:
    """Pairs of a row at a position below `rows` and a key below `keys` that the row sees.

    A row sees keys up to its own position: those of which a window lets it see. By keys: key k is
    seen from position k on, by as many rows as the window is long, or to the end of its chunk.

    Args:
        rows, keys: int64, positions in one sequence, at least 0.
    """
    below = np.minimum(rows, keys)
    if window is None:
        return _triangle(rows) - _triangle(rows - below)
    size = window.tokens
    if window.chunked:
        chunk = below // size
        end = np.minimum(rows, (chunk + 1) * size) - chunk * size
        return chunk * _triangle(size) + _triangle(end) - _triangle(end - below % size)
    # The first keys leave the sight of rows before the last row.
    whole = np.clip(rows - size + 1, 0, below)
    return size * whole + _triangle(rows - whole) - _triangle(rows - below)


def seen_pairs(
    window: Window | None,
    rows: tuple[Int64Array, Int64Array],
    keys: tuple[Int64Array, Int64Array],
) -> Int64Array:
    """Pairs of a row in [first, last) and a key in [first, last) that the row sees, int64."""

    def between(rows_: Int64Array) -> Int64Array:
        return pairs_before(window, rows_, keys[1]) - pairs_before(window, rows_, keys[0])

    return between(rows[1]) - between(rows[0])


@dataclass(frozen=True)
class DecodingRows:
    """Rows that N requests decode, each behind the nodes of a tree from its leaf up.

    Attributes:
        leaf: int64 [N], the node that each continues, -1: none.
        first, last: int64 [N], positions of the rows.
        choices: int64 [N], how many sequences have such rows.
    """

    leaf: Int64Array
    first: Int64Array
    last: Int64Array
    choices: Int64Array


@dataclass(frozen=True)
class SeenWhileDecoding:
    """Pairs of the V nodes' tokens and the rows behind them, all int64 [V].

    Attributes:
        most: of one sequence, the most.
        total: of all sequences.
        direct: of those whose leaf the node is.
    """

    most: Int64Array
    total: Int64Array
    direct: Int64Array


def seen_while_decoding(
    window: Window | None, nodes: tuple[Int64Array, Int64Array, Int64Array], rows: DecodingRows
) -> SeenWhileDecoding:
    """What decoding rows see of each node of a tree: a walk up from all leaves at once.

    A walk ends where a window does, so it takes no more steps than a window has tokens.

    Args:
        nodes: parent (-1 at the top), start and end of each node, int64 [V].
    """
    parent, start, end = nodes
    most, total, direct = np.zeros((3, len(parent)), dtype=np.int64)
    request = np.flatnonzero((rows.leaf >= 0) & (rows.last > rows.first))
    node = rows.leaf[request]
    while len(request):
        first, last = rows.first[request], rows.last[request]
        pairs = seen_pairs(window, (first, last), (start[node], end[node]))
        np.maximum.at(most, node, pairs)
        each = pairs * rows.choices[request]
        np.add.at(total, node, each)
        here = rows.leaf[request] == node
        np.add.at(direct, node[here], each[here])
        above = parent[node]
        going = (above >= 0) & (pairs > 0)
        request, node = request[going], above[going]
    return SeenWhileDecoding(most, total, direct)


def _triangle(count: Int64Array | int) -> Int64Array:
    """1 + 2 + ... + count."""
    found: Int64Array = np.asarray(count * (count + 1) // 2)
    return found
