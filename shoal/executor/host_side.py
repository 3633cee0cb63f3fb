"""Batches computed on the host, one at a time: logits are there when the forward returns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from shoal.cuda.transfers import DirectStage
from shoal.errors import InternalError
from shoal.executor.forward import ModelRunner
from shoal.kernels import Kernels
from shoal.sampling.host_logprobs import knows
from shoal.sampling.host_scoring import host_scores
from shoal.sampling.prompt_scoring import PromptScorer
from shoal.sampling.results import PromptScores, Sampled, StepResult
from shoal.sampling.rows import LogitRows
from shoal.sampling.sampler import Sampler
from shoal.scheduler import TokenBatch


class HostSide:
    """Runs a batch to its end."""

    def __init__(
        self,
        runner: ModelRunner,
        sampler: Sampler,
        scorer: PromptScorer,
        kernels: Kernels | None,
    ) -> None:
        self._runner, self._sampler, self._scorer = runner, sampler, scorer
        self._kernels = kernels
        self._stage = DirectStage()

    def launch(
        self, batch: TokenBatch, retained: Mapping[int, torch.Tensor]
    ) -> tuple[torch.Tensor, StepResult]:
        """Logits [R, vocabulary] and what was made of them.

        Args:
            retained: logits [vocabulary] kept earlier, by segment.
        """
        if len(batch.feedback.rows):
            raise InternalError("a batch was planned ahead of an executor that does not run ahead")
        logits = self._runner(batch, self._runner.inputs(batch, self._stage))
        sampled = self._sample(batch, logits, retained)
        return logits, StepResult(sampled, self._score(batch, logits))

    def _score(self, batch: TokenBatch, logits: torch.Tensor) -> list[PromptScores]:
        if self._kernels is not None and knows(self._kernels, logits):
            return host_scores(batch.scored, logits[batch.first_scored :], self._kernels)
        task = self._scorer.plan(batch, self._stage)
        scores = [part.cpu().numpy() for part in self._scorer.score(task, logits)]
        return self._scorer.collect(task, scores)

    def _sample(
        self, batch: TokenBatch, logits: torch.Tensor, retained: Mapping[int, torch.Tensor]
    ) -> Sampled:
        if len(batch.sample_sequences) == 0:
            return Sampled(np.zeros(0, dtype=np.int32))
        parts = [retained[segment][None] for segment in batch.sample_retained]
        if len(batch.logit_rows):
            parts.insert(0, logits)
        rows = LogitRows(tuple(parts), batch.sample_logits)
        return self._sampler.sample(rows, batch.sample_sequences, batch.sample_positions)
