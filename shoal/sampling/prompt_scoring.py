"""Scores of prompts: what the model thought of each of their tokens, in torch, on any device.

On a CPU with the kernels it is `shoal.sampling.host_scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Stage
from shoal.errors import InvalidLogitsError
from shoal.sampling.logprobs import NUM_PARTS, columns_of, described, rows_per_chunk
from shoal.sampling.results import PromptScores
from shoal.scheduler import ScoredRange, TokenBatch
from shoal.types import Float32Array, Int32Array, Int64Array, LogprobColumns

_MANY = 32
"""Most tokens whose ranks are found by comparing; of more, one looks them up in the sorted row."""


@dataclass(frozen=True)
class _Siblings:
    """Further tokens of rows that score several: of many rows a few, or of one row many.

    Attributes:
        rows, tokens: int64 [M], the chunk's row of each, and what it scores. On the device.
        row: the one row they are of; None: of several.
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    row: int | None


@dataclass(frozen=True)
class _Chunk:
    """As many rows of logits as are worked on at once.

    Attributes:
        first, last: they are [first, last) of the batch's logits.
        targets: int64 [last - first], the token each scores; of children the first. On the device.
        siblings: the other children, in order.
        num_best: how many of the likeliest tokens are listed.
    """

    first: int
    last: int
    targets: torch.Tensor
    siblings: list[_Siblings]
    num_best: int


@dataclass(frozen=True)
class ScoringTask:
    """What a batch is to score, and how."""

    ranges: tuple[ScoredRange, ...]
    chunks: list[_Chunk]


class PromptScorer:
    """Scores what a batch asks for: `plan` before the forward, `score` after it, `collect` later.

    Nothing but `collect` looks at a number that the model computes.
    """

    def __init__(self, vocab_size: int) -> None:
        self._rows = rows_per_chunk(vocab_size)

    def plan(self, batch: TokenBatch, stage: Stage) -> ScoringTask:
        """Put on the stage what scoring needs where the logits are."""
        if not batch.scored:
            return ScoringTask((), [])
        targets = np.concatenate([targets_of(each) for each in batch.scored]).astype(np.int64)
        num_best = np.repeat(
            [each.num_best for each in batch.scored], [each.num_rows for each in batch.scored]
        )
        families = [
            (each.row + each.num_rows - 1, each.children[1:].astype(np.int64))
            for each in batch.scored
            if len(each.children) > 1
        ]
        begin, chunks = batch.first_scored, list[_Chunk]()
        for first in range(0, len(targets), self._rows):
            last = min(first + self._rows, len(targets))
            inside = [(row - first, tokens) for row, tokens in families if first <= row < last]
            chunks.append(
                _Chunk(
                    begin + first,
                    begin + last,
                    stage.put(targets[first:last]),
                    [
                        _Siblings(
                            stage.put(np.repeat(rows, [len(t) for t in tokens])),
                            stage.put(np.concatenate(tokens)),
                            rows[0] if len(tokens[0]) > _MANY else None,
                        )
                        for rows, tokens in _grouped(inside, self._rows)
                    ],
                    int(num_best[first:last].max()),
                )
            )
        return ScoringTask(batch.scored, chunks)

    def score(self, task: ScoringTask, logits: torch.Tensor) -> list[torch.Tensor]:
        """What `collect` needs: per chunk `NUM_PARTS` tensors, see `best_logprobs`, and two more.

        Those are the logprobs and ranks of the siblings, one row's after another's.

        Args:
            logits: [R, vocabulary] of the batch.
        """
        found: list[torch.Tensor] = []
        for chunk in task.chunks:
            rows = logits[chunk.first : chunk.last].float()
            logprobs = torch.log_softmax(rows, dim=-1)
            found += described(logprobs, chunk.targets, chunk.num_best)
            own, ranks = [logprobs.new_zeros(0)], [chunk.targets[:0]]
            for some in chunk.siblings:
                values = logprobs[some.rows, some.tokens]
                own.append(values)
                ranks.append(_ranks(logprobs, some, values))
            found += [torch.cat(own), torch.cat(ranks)]
        return found

    def collect(
        self, task: ScoringTask, arrays: Sequence[npt.NDArray[np.generic]]
    ) -> list[PromptScores]:
        """The scores, in the order of the ranges, from what `score` gave.

        Raises:
            InvalidLogitsError: a row's logits are not numbers.
        """
        if not task.ranges:
            return []
        width = NUM_PARTS + 2
        parts = [arrays[i : i + width] for i in range(0, width * len(task.chunks), width)]
        rows = LogprobColumns.joined([_padded(part, task) for part in parts])
        check_numbers(task.ranges, rows.logprob)
        own = np.concatenate([part[-2] for part in parts]).astype(np.float32, copy=False)
        ranks = np.concatenate([part[-1] for part in parts]).astype(np.int32)
        found, row, child = list[PromptScores](), 0, 0
        for each in task.ranges:
            mine = rows.rows(row, row + each.num_rows).likeliest(each.num_best)
            row += each.num_rows
            more = max(len(each.children) - 1, 0)
            others = own[child : child + more], ranks[child : child + more]
            child += more
            found.append(scores_of(each, mine, *others))
        return found


def targets_of(scored: ScoredRange) -> Int32Array:
    """What each row scores, int32; of a last row with children the first of them."""
    return np.concatenate([scored.targets, scored.children[:1]])


def _grouped(
    families: list[tuple[int, Int64Array]], most: int
) -> list[tuple[list[int], list[Int64Array]]]:
    """Families in order, small ones together up to `most` tokens, or one at least."""
    groups: list[tuple[list[int], list[Int64Array]]] = []
    room = 0
    for row, tokens in families:
        if len(tokens) > min(room, _MANY):
            groups.append(([], []))
            room = most if len(tokens) <= _MANY else 0
        groups[-1][0].append(row)
        groups[-1][1].append(tokens)
        room -= len(tokens)
    return groups


def _ranks(logprobs: torch.Tensor, some: _Siblings, values: torch.Tensor) -> torch.Tensor:
    """How many tokens of its row are no less likely than each of some, int64 [M].

    Args:
        logprobs: float32 [rows, vocab].
        values: float32 [M], their own.
    """
    if some.row is None:
        return (logprobs.index_select(0, some.rows) >= values[:, None]).sum(dim=-1)
    row = logprobs[some.row].sort().values
    return len(row) - torch.searchsorted(row, values)


def _padded(part: Sequence[npt.NDArray[np.generic]], task: ScoringTask) -> LogprobColumns:
    """The columns of a chunk, as many of the likeliest as any range lists."""
    columns = columns_of(part)
    more = max(each.num_best for each in task.ranges) - columns.top_ids.shape[1]
    if more <= 0:
        return columns
    pad = ((0, 0), (0, more))
    ids, logprobs = np.pad(columns.top_ids, pad), np.pad(columns.top_logprobs, pad)
    return LogprobColumns(columns.logprob, columns.rank, ids, logprobs)


def check_numbers(ranges: Sequence[ScoredRange], logprob: Float32Array) -> None:
    """Look at what each row of the ranges scored.

    Raises:
        InvalidLogitsError: a row's logits are not numbers.
    """
    if not np.isnan(logprob).any():
        return
    owners: Int64Array = np.repeat(np.arange(len(ranges)), [each.num_rows for each in ranges])
    wrong = [ranges[i] for i in np.unique(owners[np.isnan(logprob)]).tolist()]
    raise InvalidLogitsError(
        tuple(each.owner for each in wrong if not each.shared),
        f"the model gave NaN or infinite logits where {len(wrong)} prompt(s) are scored; "
        "its weights may be damaged, or its dtype too narrow: try --dtype float32.",
    )


def scores_of(
    scored: ScoredRange, rows: LogprobColumns, own: Float32Array, ranks: Int32Array
) -> PromptScores:
    """What the rows of a range said, and what the last said of all children but the first."""
    first = len(rows) - bool(len(scored.children))  # the row that says the first child
    return PromptScores(
        scored.shared,
        scored.owner,
        scored.first,
        rows,
        scored.children,
        np.concatenate([rows.logprob[first:], own]),
        np.concatenate([rows.rank[first:], ranks]),
    )
