"""Scores of prompts: what the model thought of each of their tokens, on the host or on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Stage
from shoal.planner import Plan
from shoal.sampling.logprobs import NUM_PARTS, best_logprobs, listed, rows_per_chunk
from shoal.sampling.results import PromptScores
from shoal.scheduler import ScoredRange, TokenBatch
from shoal.types import RequestTable


@dataclass(frozen=True)
class ScoringPiece:
    """As much of a scored range as is worked on at once.

    Attributes:
        scored: the tokens, and the rows of logits they are read from.
        targets: int64, its tokens on the device.
        num_best: how many most likely tokens are listed beside each.
    """

    scored: ScoredRange
    targets: torch.Tensor
    num_best: int


class PromptScorer:
    """Scores what a batch asks for: `plan` before the forward, `score` after it, `collect` later.

    Nothing but `collect` looks at a number that the model computes.
    """

    def __init__(self, table: RequestTable, vocab_size: int) -> None:
        self._table, self._rows = table, rows_per_chunk(vocab_size)

    def plan(self, batch: TokenBatch, plan: Plan, stage: Stage) -> list[ScoringPiece]:
        """Put on the stage what scoring needs where the logits are."""
        pieces = []
        for scored in batch.scored:
            request = int(plan.sequence_request[scored.sequence])
            num_best = self._table.sampling(request).num_prompt_logprobs or 0
            for skip in range(0, len(scored.targets), self._rows):
                targets = scored.targets[skip : skip + self._rows]
                piece = ScoredRange(
                    scored.sequence, scored.first + skip, scored.row + skip, targets
                )
                on_device = stage.put(targets.astype(np.int64))
                pieces.append(ScoringPiece(piece, on_device, num_best))
        return pieces

    def score(self, pieces: Sequence[ScoringPiece], logits: torch.Tensor) -> list[torch.Tensor]:
        """What `collect` needs: `NUM_PARTS` tensors per piece, see `best_logprobs`.

        Args:
            logits: [R, vocabulary] of the batch.
        """
        found: list[torch.Tensor] = []
        for piece in pieces:
            first = piece.scored.row
            rows = logits[first : first + len(piece.targets)]
            found += best_logprobs(rows, piece.targets, piece.num_best)
        return found

    def collect(
        self, pieces: Sequence[ScoringPiece], arrays: Sequence[npt.NDArray[np.generic]]
    ) -> list[PromptScores]:
        """The scores, in the order of the pieces, from what `score` gave."""
        scores = []
        for number, piece in enumerate(pieces):
            parts = arrays[NUM_PARTS * number : NUM_PARTS * (number + 1)]
            targets = piece.scored.targets
            num_best = np.full(len(targets), piece.num_best, dtype=np.int64)
            logprobs = listed(targets, num_best, parts)
            scores.append(PromptScores(piece.scored.sequence, piece.scored.first, logprobs))
        return scores
