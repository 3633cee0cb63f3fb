"""The peak-memory forecast: how many KV blocks the running sequences will need at most.

After the Past-Future scheduler (LightLLM, ASPLOS 2025): sequences grow in step, one token an
iteration, and the largest demand comes just before one of them finishes. Ours counts whole
blocks exactly, so that nothing is lost to rounding and nothing is promised twice.
"""

from __future__ import annotations

import math

import numpy as np

from shoal.types import Int64Array


def forecast_peak_blocks(held: Int64Array, growth: Int64Array, block_size: int) -> int:
    """Most blocks in use at once if every sequence grows one token per iteration, then leaves.

    With the sequences sorted by growth, longest first, the demand when the i-th is about to
    leave is sum over j <= i of ceil((held_j + growth_i) / block_size); the peak is its maximum.

    Args:
        held: int64 [R], tokens each sequence stores now (its prefill counted as done).
        growth: int64 [R], tokens it has still to store.
        block_size: tokens per block.

    Returns:
        Blocks; 0 for no sequences.
    """
    if len(held) == 0:
        return 0
    # Of those that leave together the last sees the most: one row for each growth there is.
    found = np.bincount(growth) > 0
    more = np.flatnonzero(found)[::-1]
    group = (len(more) - np.cumsum(found))[growth]
    size = len(more) * block_size
    counts = np.bincount(group * block_size + held % block_size, minlength=size)
    counts = counts.reshape(-1, block_size).cumsum(axis=0)
    full = np.bincount(group, weights=held // block_size).astype(np.int64).cumsum()
    # What is left over: ceil((r_j + m_i) / B) is 0, 1 or 2 for r_j = held_j mod B, m_i = growth_i
    # mod B. at_least[i, t] counts the j with at least growth i and r_j >= t.
    at_least = np.zeros((len(more), block_size + 2), dtype=np.int64)
    at_least[:, :block_size] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    rows, rank, left = np.arange(len(more)), at_least[:, 0], more % block_size
    whole = full + rank * (more // block_size)
    one = np.where(left > 0, rank, at_least[rows, 1])
    two = at_least[rows, block_size + 1 - left]
    return int((whole + one + two).max())


class PeakForecast:
    """Answers whether running sequences fit some blocks, as one after another is added to them.

    Most answers follow from two sums: the peak is at least the blocks held now, and at most what
    would be held if nobody left before all have grown. One that had to be worked out bounds those
    that follow: a newcomer raises it by no more than it needs itself.

    Where growths are guesses, `caution` of their root sum of squares is kept in reserve: the error
    of a sum of independent guesses grows like that, and admission until the forecast is full would
    otherwise overdraw it as often as not.
    """

    def __init__(
        self, held: Int64Array, growth: Int64Array, block_size: int, caution: float = 0.0
    ) -> None:
        """`held`, `growth`: int64 [R], what the running sequences store and have still to store."""
        self._held, self._growth, self._block_size = held, growth, block_size
        self._caution = caution
        self._more: list[tuple[int, int]] = []
        self._least = int((-(-held // block_size)).sum())
        self._most = int((-(-(held + growth) // block_size)).sum())
        """At least the peak."""
        self._squares = int((growth * growth).sum())

    def add(self, held: int, growth: int) -> None:
        """One more sequence."""
        self._more.append((held, growth))
        self._least += -(-held // self._block_size)
        self._most += -(-(held + growth) // self._block_size)
        self._squares += growth * growth

    def fits(self, blocks: int) -> bool:
        """Whether the peak, and what is kept in reserve, is at most `blocks`."""
        blocks -= math.ceil(self._caution * math.sqrt(self._squares) / self._block_size)
        if self._most > blocks >= self._least:
            self._most = self._peak()
        return self._most <= blocks

    def _peak(self) -> int:
        more = np.array(self._more, dtype=np.int64).reshape(-1, 2)
        self._held = np.concatenate([self._held, more[:, 0]])
        self._growth = np.concatenate([self._growth, more[:, 1]])
        self._more = []
        return forecast_peak_blocks(self._held, self._growth, self._block_size)


def remaining_growth(generated: Int64Array, expected: Int64Array, limit: Int64Array) -> Int64Array:
    """Tokens of KV still to be stored, int64 [R].

    A sequence that outlives its expected length is expected to double it, up to its limit. The
    last token of an answer is never stored, hence the one less.
    """
    doublings = np.ceil(np.log2(np.maximum(generated + 1, expected) / expected))
    estimate = np.minimum(expected * np.exp2(doublings).astype(np.int64), limit)
    growth: Int64Array = np.maximum(estimate - 1 - generated, 0)
    return growth
