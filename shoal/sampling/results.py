"""What computing a token batch gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.sampling.history import Float32Array
from shoal.types import BoolArray, Int32Array, LogprobColumns, TokenLogprob


@dataclass(frozen=True)
class Sampled:
    """The tokens of one iteration.

    Attributes:
        token_ids: int32 [S].
        logprobs: [S], None where the sequence did not ask; empty when none did.
    """

    token_ids: Int32Array
    logprobs: Sequence[TokenLogprob | None] = ()

    def only(self, wanted: BoolArray) -> Sampled:
        """Those of some sequences, bool [S]."""
        chosen = np.flatnonzero(wanted).tolist()
        kept = [self.logprobs[number] for number in chosen] if self.logprobs else ()
        return Sampled(self.token_ids[wanted], kept)


@dataclass(frozen=True)
class PromptScores:
    """What the rows of a `ScoredRange` said.

    Attributes:
        shared, owner, first: as there.
        rows: a row for each; what the last one says of a token is void where it has children.
        children: int32 [M], the tokens after the last row, ascending; child_logprob, float32 [M],
            and child_rank, int32 [M], as in `LogprobColumns`.
    """

    shared: bool
    owner: int
    first: int
    rows: LogprobColumns
    children: Int32Array
    child_logprob: Float32Array
    child_rank: Int32Array


@dataclass(frozen=True)
class StepResult:
    """What one iteration gave: a token per sampled sequence, and scores of prompts."""

    sampled: Sampled
    scores: list[PromptScores]
