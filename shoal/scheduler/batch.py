"""What one iteration computes: the token batch that goes from the scheduler to an executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shoal.types import BoolArray, Int32Array, Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class Chunks:
    """Runs of consecutive tokens, each of one owner, as int64 columns [C] in row order.

    Attributes:
        owner: a segment id where `shared`, else a running slot.
        shared: bool [C], whether the tokens belong to a shared segment.
        first: index of the chunk's first token within its owner's tokens.
        count: tokens, at least 1.
    """

    owner: Int64Array
    shared: BoolArray
    first: Int64Array
    count: Int64Array

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def row_starts(self) -> Int64Array:
        """Batch row of each chunk's first token, and the total: int64 [C + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.count)])


@dataclass(frozen=True)
class PromptLogits:
    """Rows of a sequence whose logits are wanted because its prompt is to be scored.

    The logits at places [place, place + count) of `logit_rows` follow the prompt's tokens
    [first, first + count) of `sequence`.
    """

    sequence: int
    first: int
    place: int
    count: int


class Feedback(NamedTuple):
    """Rows whose token was not known when the batch was planned, int64 columns [F].

    Row `rows[f]` runs the token that the batch launched before gave its sample `source[f]`.
    """

    rows: Int64Array
    source: Int64Array

    @classmethod
    def none(cls) -> Feedback:
        """Every token is known."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class TokenBatch:
    """One iteration: T tokens to run through the model and S next tokens to sample.

    Attributes:
        token_ids, positions: int32 [T].
        slots: int64 [T], the KV slot (block * block size + offset) each token writes.
        attention: who attends to what.
        logit_rows: int64 [R], rows whose logits are needed: those sampled from, then those that
            score a prompt.
        sample_sequences: int32 [S], the sequences (places in the plan's order) that get a token.
        sample_source: int64 [S]: s >= 0 is logit_rows[s]; s < 0 are the logits retained for
            segment -1 - s in an earlier iteration.
        sample_positions: int32 [S], tokens each has generated so far.
        retain: (place in logit_rows, segment) pairs: keep these logits, sequences that end with
            that segment's last token will sample from them later.
        release: segments whose retained logits nobody needs after this batch.
        prompt_logits: which of them score a prompt.
        chunks: where the rows come from, in row order.
        num_decodes: rows that continue an answer.
        sequences: int32, the sequences this batch is computed for.
        feedback: tokens that come from the batch before; `token_ids` has 0 for them.
    """

    token_ids: Int32Array
    positions: Int32Array
    slots: Int64Array
    attention: SegmentWork
    logit_rows: Int64Array
    sample_sequences: Int32Array
    sample_source: Int64Array
    sample_positions: Int32Array
    retain: tuple[tuple[int, int], ...]
    release: tuple[int, ...]
    prompt_logits: tuple[PromptLogits, ...]
    chunks: Chunks
    num_decodes: int
    sequences: Int32Array
    feedback: Feedback = field(default_factory=Feedback.none)

    @property
    def num_tokens(self) -> int:
        """Tokens the model runs."""
        return len(self.token_ids)
