"""Batches computed on the host, one at a time: logits are there when the forward returns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from shoal.cuda.transfers import DirectStage
from shoal.errors import InternalError
from shoal.executor.forward import Forward
from shoal.planner import Plan
from shoal.sampling.logprobs import prompt_logprobs
from shoal.sampling.results import PromptScores, Sampled, StepResult
from shoal.sampling.rows import LogitRows
from shoal.sampling.sampler import Sampler
from shoal.scheduler import TokenBatch
from shoal.types import Int64Array, RequestTable


class HostSide:
    """Runs a batch to its end."""

    def __init__(self, forward: Forward, sampler: Sampler, table: RequestTable) -> None:
        self._forward, self._sampler, self._table = forward, sampler, table
        self._stage = DirectStage()

    def launch(
        self, batch: TokenBatch, plan: Plan, retained: Mapping[int, torch.Tensor]
    ) -> tuple[torch.Tensor, StepResult]:
        """Logits [R, vocabulary] and what was made of them.

        Args:
            retained: logits [vocabulary] kept earlier, by segment.
        """
        if len(batch.feedback.rows):
            raise InternalError("a batch was planned ahead of an executor that does not run ahead")
        logits = self._forward(batch, self._forward.inputs(batch, self._stage))
        result = StepResult(self._sample(batch, logits, retained), self._score(batch, plan, logits))
        return logits, result

    def _sample(
        self, batch: TokenBatch, logits: torch.Tensor, retained: Mapping[int, torch.Tensor]
    ) -> Sampled:
        if len(batch.sample_sequences) == 0:
            return Sampled(np.zeros(0, dtype=np.int32))
        rows = _rows(logits, batch.sample_source, retained)
        return self._sampler.sample(rows, batch.sample_sequences, batch.sample_positions)

    def _score(self, batch: TokenBatch, plan: Plan, logits: torch.Tensor) -> list[PromptScores]:
        scores = []
        for wanted in batch.prompt_logits:
            request = int(plan.sequence_request[wanted.sequence])
            tokens = self._table.prompt(request)[wanted.first : wanted.first + wanted.count]
            rows = logits[wanted.place : wanted.place + wanted.count]
            num = self._table.sampling(request).num_prompt_logprobs or 0
            found = prompt_logprobs(rows, tokens, num)
            scores.append(PromptScores(wanted.sequence, wanted.first, found))
        return scores


def _rows(
    logits: torch.Tensor, source: Int64Array, retained: Mapping[int, torch.Tensor]
) -> LogitRows:
    """The rows to sample from; see `TokenBatch.sample_source`."""
    if source.min() >= 0:
        return LogitRows((logits,), source)
    kept = np.unique(source[source < 0])
    parts = [retained[-1 - number][None] for number in kept.tolist()]
    first = logits.shape[0] if logits.ndim == 2 else 0
    place = np.where(source >= 0, source, first + np.searchsorted(kept, source))
    return LogitRows((logits, *parts) if first else tuple(parts), place)
