"""Batches enqueued on a device: the host goes on while they run, and waits for the tokens alone.

Between `launch` and the wait nothing is read back. The tokens that the last batch sampled are
filled into the next one's rows on the device. Whatever the answers need (tokens, logprobs, prompt
scores) is copied to the host as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Transfers
from shoal.executor.forward import ModelRunner
from shoal.model.description import ModelDescription
from shoal.sampling.device_rows import chooser_for
from shoal.sampling.device_sampling import DeviceSampler, SamplingPlan
from shoal.sampling.logprobs import NUM_PARTS
from shoal.sampling.prompt_scoring import PromptScorer, ScoringTask
from shoal.sampling.results import Sampled, StepResult
from shoal.sampling.sampler import Sampler
from shoal.scheduler import TokenBatch


class DeviceSide:
    """Launches batches; their results are waited for later, in the same order."""

    def __init__(
        self,
        runner: ModelRunner,
        sampler: Sampler,
        scorer: PromptScorer,
        description: ModelDescription,
        transfers: Transfers,
    ) -> None:
        self._runner, self._scorer, self._transfers = runner, scorer, transfers
        self._vocab_size = description.vocab_size
        chooser = chooser_for(description.device)
        self._sampler = DeviceSampler(sampler, self._vocab_size, chooser)
        self._newest: torch.Tensor | None = None

    def launch(
        self, batch: TokenBatch, retained: Mapping[int, torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], StepResult]]:
        """Logits [R, vocabulary] on the device, and what waits for the results.

        Args:
            retained: logits [vocabulary] kept earlier, by segment.
        """
        stage, landing = self._transfers.turn()
        inputs = self._runner.inputs(batch, stage)
        sampling = self._sampler.plan(batch, stage)
        scored = self._scorer.plan(batch, stage)
        rows, source = stage.put(batch.feedback.rows), stage.put(batch.feedback.source)
        stage.send()
        if len(batch.feedback.rows):
            assert self._newest is not None
            # A row without a token (its logits are no numbers) is found out at the wait.
            tokens = self._newest.index_select(0, source).clamp_(min=0)
            inputs.token_ids.index_copy_(0, rows, tokens)
        logits = self._runner(batch, inputs)
        if logits.ndim != 2:
            logits = logits.new_empty(0, self._vocab_size)
        tokens = self._sampler.choose(sampling, logits, retained)
        results = [tokens, *self._sampler.logprobs(sampling, logits, tokens, retained)]
        results += self._scorer.score(scored, logits)
        wait = landing.begin(results)
        self._newest = tokens

        def result() -> StepResult:
            arrays = wait()
            return self._result(sampling, scored, arrays)

        return logits, result

    def _result(
        self,
        sampling: SamplingPlan,
        scored: ScoringTask,
        arrays: list[npt.NDArray[np.generic]],
    ) -> StepResult:
        tokens = arrays[0].astype(np.int32)
        reported = 1 + NUM_PARTS * len(sampling.reported)
        logprobs = self._sampler.collect(sampling, tokens, arrays[1:reported])
        scores = self._scorer.collect(scored, arrays[reported:])
        return StepResult(Sampled(tokens, logprobs), scores)
