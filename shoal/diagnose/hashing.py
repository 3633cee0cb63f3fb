"""Hashes of token runs, for many prompts at once.

64-bit polynomial hashes of mixed token ids, modulo 2^64: a run's hash does not depend on where the
run stands, and is had from two prefix sums. Equal hashes are taken for equal runs; what is found
that way is then counted exactly, so a collision could cost a finding but never invent a saving.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from shoal.types import BoolArray, Int32Array, Int64Array

UInt64Array = npt.NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
_INVERSE = pow(_BASE, -1, 1 << 64)


def mix(values: npt.NDArray[np.integer]) -> UInt64Array:
    """Whole numbers scrambled over 64 bits (splitmix64, Steele et al. 2014)."""
    z = values.astype(np.uint64) + np.uint64(_BASE)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def powers(count: int) -> UInt64Array:
    """The base to the powers 0 ... count - 1 and perhaps more."""
    return _powers(_BASE, 1 << max(count, 1).bit_length())[:count]


def run_hashes(values: UInt64Array, head: Int64Array, offset: Int64Array) -> UInt64Array:
    """Hashes of runs that follow each other.

    Args:
        values: uint64 [n], one per element, already mixed.
        head: int64 [runs], where each run begins.
        offset: int64 [n], each element's position in its run.
    """
    if not len(head):
        return np.zeros(0, dtype=np.uint64)
    terms = values * powers(int(offset.max()) + 1)[offset]
    return np.add.reduceat(terms, head)


def windows_hash(
    tokens: Int32Array, start: Int64Array, end: Int64Array, region: int, width: int
) -> tuple[UInt64Array, UInt64Array, BoolArray]:
    """Hashes of all windows of `width` tokens that begin in the first `region` tokens.

    Args:
        tokens: int32 [total].
        start, end: int64 [M], prompt i is looked at over tokens[start[i]:end[i]].

    Returns:
        (window, before, valid), each [M, region]: the window at start + p, the tokens from start
        up to there, and whether the window ends within the prompt.
    """
    at = start[:, None] + np.arange(region + width - 1)
    values = mix(tokens[np.minimum(at, len(tokens) - 1)])
    before = np.zeros((len(start), region + width), dtype=np.uint64)
    np.cumsum(values * powers(region + width - 1), axis=1, out=before[:, 1:])
    inverse = _powers(_INVERSE, 1 << region.bit_length())[:region]
    window = (before[:, width:] - before[:, :region]) * inverse
    valid = start[:, None] + np.arange(region) + width <= end[:, None]
    return mix(window), before[:, :region], valid


def counts_of(values: UInt64Array) -> tuple[UInt64Array, Int64Array]:
    """The distinct values, ascending, and how often each occurs."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct, counts.astype(np.int64)


def look_up(values: UInt64Array, keys: UInt64Array, found: Int64Array) -> Int64Array:
    """For each value the entry of `found` beside the same key, 0 where there is none.

    Args:
        keys: uint64 [k], ascending and distinct.
    """
    if not len(keys):
        return np.zeros(values.shape, dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[at] == values, found[at], 0)


@cache
def _powers(base: int, count: int) -> UInt64Array:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
