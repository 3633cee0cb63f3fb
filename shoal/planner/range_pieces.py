"""Ranges of prompts that are pieces of a job too large to be planned whole, from a sample.

A range of prompts in lexicographic order holds whole families of prefixes, but for those that its
two ends cut. So the ends are put where neighbours share least.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]

SLACK = 0.1
"""How far an end may lie from where pieces would be even, as a share of a piece's work."""


@dataclass(frozen=True)
class PromptSample:
    """Prompts drawn at random from a job's.

    Attributes:
        keys: each prompt, as bytes in the order of its text or token ids.
        tokens: int64 [S], of each prompt.
        output: int64 [S], tokens it is expected to generate.
        rate: the share of the job's prompts that the sample is; above 0, at most 1.
    """

    keys: Sequence[bytes]
    tokens: Int64Array
    output: Int64Array
    rate: float = 1.0

    def sorted(self) -> PromptSample:
        """The same, in the order of the keys."""
        order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
        keys = [self.keys[i] for i in order]
        return PromptSample(keys, self.tokens[order], self.output[order], self.rate)


def piece_bounds(sample: PromptSample, pieces: int) -> list[bytes]:
    """Where pieces begin, but for the first: at most `pieces` - 1 keys, ascending.

    Each is the shortest key that tells the prompt behind it from the one before, so that also the
    family's prompts that are not in the sample lie behind it. Prompts that are all alike, and fill
    several pieces, have their key several times: `piece_of` deals them.
    """
    if not len(sample.keys) or pieces < 2:
        return []
    sample = sample.sorted()
    common = _common_bytes(sample.keys)
    work = np.cumsum(_work(sample, common))
    share = work[-1] / pieces
    bounds = []
    for number in range(1, pieces):
        cut = _cut(work, common, number * share, SLACK * share)
        if cut is not None:
            bounds.append(sample.keys[cut][: int(common[cut]) + 1])
    return sorted(bounds)


def piece_of(keys: Sequence[bytes], bounds: Sequence[bytes]) -> Int64Array:
    """The number of each prompt's piece, int64 [N].

    Those of a key that ends several pieces are dealt to these in turn.
    """
    pieces = np.empty(len(keys), dtype=np.int64)
    for index, key in enumerate(keys):
        last = bisect_right(bounds, key)
        first = bisect_left(bounds, key, hi=last)
        repeated = last - first
        pieces[index] = last if repeated < 2 else first + 1 + index % repeated
    return pieces


def _common_bytes(keys: Sequence[bytes]) -> Int64Array:
    """How many first bytes each key shares with the one before, int64 [S]; 0 for the first."""
    common = np.zeros(len(keys), dtype=np.int64)
    for index in range(1, len(keys)):
        width = min(len(keys[index - 1]), len(keys[index]))
        before = np.frombuffer(keys[index - 1], dtype=np.uint8, count=width)
        here = np.frombuffer(keys[index], dtype=np.uint8, count=width)
        differs = before != here
        common[index] = differs.argmax() if differs.any() else width
    return common


def _work(sample: PromptSample, common: Int64Array) -> FloatArray:
    """Tokens that each prompt of the sample adds to a run, float64 [S].

    What a family shares is computed once, however many prompts the sample took of it; so it
    weighs as much as the sample is of the job.
    """
    length = np.maximum([len(key) for key in sample.keys], 1)
    following = np.append(common[1:], 0)
    first_of_family = np.maximum(following - common, 0)
    own = length - np.maximum(following, common)
    share: FloatArray = (own + sample.rate * first_of_family) / length
    return share * sample.tokens + sample.output + 1


def _cut(work: FloatArray, common: Int64Array, target: float, slack: float) -> int | None:
    """The prompt before which a piece ends: of those near the target, one that shares least.

    None: the target lies within the first prompt's work.
    """
    low = int(np.searchsorted(work, target - slack)) + 1
    high = int(np.searchsorted(work, target + slack)) + 1
    middle = int(np.searchsorted(work, target)) + 1
    near = np.arange(max(low, 1), min(max(high, low + 1), len(work)))
    if not len(near):
        return len(work) - 1 if len(work) > 1 else None
    best = near[common[near] == common[near].min()]
    return int(best[np.argmin(np.abs(best - middle))])
