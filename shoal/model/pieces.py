"""A token batch of pieces of sequences at positions spread over all that a request may have.

What a model does with positions is found by running it there. A few tokens are enough: a piece
stands for a sequence whose earlier tokens nobody attends to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from shoal.types import Int64Array
from shoal.work import SegmentWork

FIRST_TOKENS = BLOCK_SIZE + 5
"""Tokens of the piece at position 0: two blocks, the second not full."""

PIECE_TOKENS = 4

_MOST_NAMED = 12
"""Of the numbers a config names, so many of the largest are tried."""

_DIMENSIONS = ("_size", "_dim", "_rank", "_layers", "_heads", "_id", "_ids", "_experts")
_COUNTS = ("num_", "n_")
_POSITIONS = ("chunk_size", "window_size", "block_size")
"""Fields that end like a dimension, and are none."""


@dataclass(frozen=True)
class Pieces:
    """P pieces of P sequences, T tokens in all, in one packed batch.

    Attributes:
        token_ids, positions: int64 [T].
        bounds: int64 [P + 1]; piece p has the rows bounds[p] to bounds[p + 1] - 1.
        work: each row attends to its own piece, causally.
        slots: int64 [T], where keys and values go.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    bounds: Int64Array
    work: SegmentWork
    slots: torch.Tensor

    @classmethod
    def spread(cls, config: PreTrainedConfig, vocab_size: int, max_model_len: int) -> Pieces:
        """Pieces at `spread_positions`, in another order than they stand in a text."""
        starts = spread_positions(config, max_model_len)
        # Fixed, so that all processes that hold a part of a model try the same.
        rng = np.random.default_rng(0)
        order = rng.permutation(len(starts))
        lengths = np.minimum(
            np.where(order == 0, FIRST_TOKENS, PIECE_TOKENS), max_model_len - starts[order]
        )
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        blocks = -(-lengths // BLOCK_SIZE)
        ends = np.cumsum(blocks)
        work = SegmentWork(
            num_rows=int(bounds[-1]),
            row_first=bounds[:-1].astype(np.int32),
            row_last=bounds[1:].astype(np.int32),
            kv_tokens=lengths.astype(np.int32),
            starts=starts[order].astype(np.int32),
            causal=np.ones(len(starts), np.bool_),
            block_offsets=np.concatenate([[0], ends]),
            blocks=np.arange(ends[-1], dtype=np.int32)[::-1].copy(),
            block_size=BLOCK_SIZE,
        )
        pieces = zip(starts[order], lengths, strict=True)
        return cls(
            token_ids=torch.from_numpy(rng.integers(vocab_size, size=work.num_rows)),
            positions=torch.from_numpy(
                np.concatenate([start + np.arange(length) for start, length in pieces])
            ),
            bounds=bounds,
            work=work,
            slots=torch.from_numpy(np.concatenate([work.slots(i) for i in range(len(work))])),
        )

    @classmethod
    def of(cls, description: ModelDescription) -> Pieces:
        """For a model, up to the longest it may be given."""
        return cls.spread(description.config, description.vocab_size, description.max_model_len)

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens up to the end of each row's piece: int64 [T]."""
        counts = torch.from_numpy(np.diff(self.bounds))
        return torch.from_numpy(self.work.starts + self.work.kv_tokens).repeat_interleave(counts)

    @property
    def num_blocks(self) -> int:
        """KV blocks the batch takes."""
        return len(self.work.blocks)

    def rows(self) -> Iterator[slice]:
        """The rows of each piece."""
        yield from map(self.rows_of, range(len(self.work)))

    def rows_of(self, piece: int) -> slice:
        """The rows of one."""
        return slice(int(self.bounds[piece]), int(self.bounds[piece + 1]))

    def work_of(self, piece: int) -> SegmentWork:
        """What the rows of one attend to, numbered from 0."""
        work, rows = self.work, self.rows_of(piece)
        count = rows.stop - rows.start
        return SegmentWork(
            num_rows=count,
            row_first=np.array([0], np.int32),
            row_last=np.array([count], np.int32),
            kv_tokens=work.kv_tokens[piece : piece + 1],
            starts=work.starts[piece : piece + 1],
            causal=work.causal[piece : piece + 1],
            block_offsets=np.array([work.block_offsets[piece], len(work.blocks)]),
            blocks=work.blocks,
            block_size=work.block_size,
        )


def spread_positions(config: PreTrainedConfig, max_model_len: int) -> Int64Array:
    """Where pieces begin: ascending, the first at 0, the last so that it ends with the longest.

    Between them, a quarter of the way each, and astride every number the config names: thresholds
    from which a model does something else are among them.
    """
    last = max(max_model_len - PIECE_TOKENS, 0)
    named = sorted(set(_named_numbers(config.to_dict())))
    named = [number for number in named if number < max_model_len][-_MOST_NAMED:]
    wanted = [last * quarter // 4 for quarter in (1, 2, 3, 4)]
    wanted += [min(number - PIECE_TOKENS // 2, last) for number in named]
    later = sorted({start for start in wanted if start + PIECE_TOKENS > FIRST_TOKENS})
    return np.array([0, *(start for start in later if start > 0)])


def _named_numbers(value: Any, name: str = "") -> Iterator[int]:
    """Whole numbers in a config that are no dimensions, counts or token ids."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _named_numbers(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_numbers(part, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        sized = name.endswith(_DIMENSIONS) or name.startswith(_COUNTS)
        whole = isinstance(value, int) or value.is_integer()
        if whole and value > 0 and (not sized or name.endswith(_POSITIONS)):
            yield int(value)
