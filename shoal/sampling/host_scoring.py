"""Scores of prompts on a CPU, in C++: see `shoal.sampling.prompt_scoring` for the other side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from shoal.kernels import Kernels
from shoal.sampling.host_logprobs import row_logprobs
from shoal.sampling.prompt_scoring import check_numbers, scores_of, targets_of
from shoal.sampling.results import PromptScores
from shoal.sampling.rows import LogitRows
from shoal.scheduler import ScoredRange
from shoal.types import Int64Array, LogprobColumns


def host_scores(
    ranges: Sequence[ScoredRange], logits: torch.Tensor, kernels: Kernels
) -> list[PromptScores]:
    """The scores of a batch, in the order of its ranges.

    Args:
        logits: [R, vocabulary] that the kernels know, the rows of the ranges one after another.

    Raises:
        InvalidLogitsError: a row's logits are not numbers.
    """
    if not ranges:
        return []
    counts = np.array([each.num_rows for each in ranges])
    last = np.cumsum(counts) - 1
    more = np.array([max(len(each.children) - 1, 0) for each in ranges])
    each_row: Int64Array = np.ones(int(counts.sum()), dtype=np.int64)
    each_row[last] += more
    offsets = np.append(0, np.cumsum(each_row))
    targets = np.concatenate([np.append(targets_of(each), each.children[1:]) for each in ranges])
    nums = np.repeat([each.num_best for each in ranges], counts)
    found = row_logprobs(
        LogitRows.whole(logits), offsets, targets.astype(np.int32, copy=False), nums, kernels
    )
    own = offsets[:-1]
    rows = LogprobColumns(found.logprob[own], found.rank[own], found.top_ids, found.top_logprobs)
    check_numbers(ranges, rows.logprob)
    scores, row = list[PromptScores](), 0
    for each in ranges:
        mine = rows.rows(row, row + each.num_rows).likeliest(each.num_best)
        row += each.num_rows
        rest = slice(int(offsets[row - 1]) + 1, int(offsets[row]))
        scores.append(scores_of(each, mine, found.logprob[rest], found.rank[rest]))
    return scores
