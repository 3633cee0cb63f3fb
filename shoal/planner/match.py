"""How many tokens the members of a group have in common: the inner loop of the forest."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shoal.types import Int32Array, Int64Array

_CHUNK_TOKENS = 1 << 20
"""Tokens gathered at a time: bounds memory, and stays in cache."""


def common_length(
    tokens: Int32Array, start: Int64Array, size: Int64Array, width: Int64Array
) -> Int64Array:
    """For each of G groups, how many of the next tokens all its members share.

    Reads past a prompt's end (into the next one): the caller cuts the answer at the shortest
    member.

    Args:
        tokens: int32 [total].
        start: int64 [M], where each member's next token stands, group after group.
        size: int64 [G], members of each group.
        width: int64 [G], most tokens to compare, of few distinct values; 0 reads nothing.

    Returns:
        int64 [G]: at most `width` for a group of several, unlimited for a group of one.
    """
    unlimited = np.iinfo(np.int64).max
    common = np.empty(len(size), dtype=np.int64)
    for w in np.unique(width):
        if w == 0:
            common[width == 0] = 0
            continue
        chosen = width == w
        sizes = size[chosen]
        heads = np.cumsum(sizes) - sizes
        with_previous = _match_previous(tokens, start[np.repeat(chosen, size)], int(w))
        with_previous[heads] = unlimited
        common[chosen] = np.minimum.reduceat(with_previous, heads)
    return common


def _match_previous(tokens: Int32Array, start: Int64Array, width: int) -> Int64Array:
    """How many of the `width` tokens from start[i] equal those from start[i - 1], int64 [M].

    Neighbours suffice: the least of a group's neighbour matches is what the whole group shares.
    """
    match = np.full(len(start), width, dtype=np.int64)
    step = max(1, _CHUNK_TOKENS // width)
    for begin in range(1, len(start), step):
        window = _windows(tokens, start[begin - 1 : begin + step], width)
        differs = window[1:] != window[:-1]
        first = differs.argmax(axis=1)
        found = differs[np.arange(len(first)), first]
        match[begin : begin + step] = np.where(found, first, width)
    return match


def _windows(tokens: Int32Array, start: Int64Array, width: int) -> Int32Array:
    """The tokens from each start, int32 [len(start), width]; past the end the last one repeats."""
    windows: Int32Array
    if start.max() + width <= len(tokens):
        windows = sliding_window_view(tokens, width)[start]
    else:
        windows = tokens[np.minimum(start[:, None] + np.arange(width), len(tokens) - 1)]
    return windows
