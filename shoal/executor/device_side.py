"""Batches enqueued on a device: the host goes on while they run, and waits for the tokens alone.

Between `launch` and the wait nothing is read back. The tokens that the last batch sampled are
filled into the next one's rows on the device. Whatever the answers need (tokens, logprobs, prompt
scores) is copied to the host as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Stage, Transfers
from shoal.executor.forward import Forward
from shoal.model.description import ModelDescription
from shoal.planner import Plan
from shoal.sampling.device_sampling import DeviceSampler, SamplingPlan, rest_for
from shoal.sampling.logprobs import NUM_PARTS, best_logprobs, listed, rows_per_chunk
from shoal.sampling.results import PromptScores, Sampled, StepResult
from shoal.sampling.sampler import Sampler
from shoal.scheduler import TokenBatch
from shoal.types import Int32Array, Int64Array, RequestTable, TokenLogprob


@dataclass(frozen=True)
class _Scored:
    """Rows [place, place + len(next_tokens)) of the logits score these tokens of a prompt."""

    sequence: int
    first: int
    place: int
    num: int
    next_tokens: Int32Array
    on_device: torch.Tensor


class DeviceSide:
    """Launches batches; their results are waited for later, in the same order."""

    def __init__(
        self,
        forward: Forward,
        sampler: Sampler,
        table: RequestTable,
        description: ModelDescription,
        transfers: Transfers,
    ) -> None:
        self._forward, self._table, self._transfers = forward, table, transfers
        self._vocab_size = description.vocab_size
        rest = rest_for(description.device)
        self._sampler = DeviceSampler(sampler, self._vocab_size, rest)
        self._newest: torch.Tensor | None = None

    def launch(
        self, batch: TokenBatch, plan: Plan, retained: Mapping[int, torch.Tensor]
    ) -> tuple[torch.Tensor, Callable[[], StepResult]]:
        """Logits [R, vocabulary] on the device, and what waits for the results.

        Args:
            retained: logits [vocabulary] kept earlier, by segment.
        """
        stage, landing = self._transfers.turn()
        inputs = self._forward.inputs(batch, stage)
        sampling = self._sampler.plan(batch, stage)
        scored = self._scored(batch, plan, stage)
        rows, source = stage.put(batch.feedback.rows), stage.put(batch.feedback.source)
        stage.send()
        if len(batch.feedback.rows):
            assert self._newest is not None
            # A row without a token (its logits are no numbers) is found out at the wait.
            tokens = self._newest.index_select(0, source).clamp_(min=0)
            inputs.token_ids.index_copy_(0, rows, tokens)
        logits = self._forward(batch, inputs)
        if logits.ndim != 2:
            logits = logits.new_empty(0, self._vocab_size)
        tokens = self._sampler.choose(sampling, logits, retained)
        results = [tokens, *self._sampler.logprobs(sampling, logits, tokens, retained)]
        results += [part for each in scored for part in self._score(each, logits)]
        wait = landing.begin(results)
        self._newest = tokens

        def result() -> StepResult:
            arrays = wait()
            return self._result(sampling, scored, arrays)

        return logits, result

    def _scored(self, batch: TokenBatch, plan: Plan, stage: Stage) -> list[_Scored]:
        """What scores prompts, in pieces of rows that are worked on at once."""
        found = []
        step = rows_per_chunk(self._vocab_size)
        for wanted in batch.prompt_logits:
            request = int(plan.sequence_request[wanted.sequence])
            num = self._table.sampling(request).num_prompt_logprobs or 0
            prompt = self._table.prompt(request)
            for skip in range(0, wanted.count, step):
                first = wanted.first + skip
                tokens = prompt[first : wanted.first + min(wanted.count, skip + step)]
                on_device = stage.put(tokens.astype(np.int64))
                place = wanted.place + skip
                found.append(_Scored(wanted.sequence, first, place, num, tokens, on_device))
        return found

    def _score(self, scored: _Scored, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = logits[scored.place : scored.place + len(scored.next_tokens)]
        return best_logprobs(rows, scored.on_device, scored.num)

    def _result(
        self,
        sampling: SamplingPlan,
        scored: list[_Scored],
        arrays: list[npt.NDArray[np.generic]],
    ) -> StepResult:
        tokens = arrays[0].astype(np.int32)
        reported = 1 + NUM_PARTS * len(sampling.reported)
        logprobs = self._sampler.collect(sampling, tokens, arrays[1:reported])
        parts = [
            PromptScores(each.sequence, each.first, _logprobs(each, arrays[at : at + NUM_PARTS]))
            for at, each in zip(range(reported, len(arrays), NUM_PARTS), scored, strict=True)
        ]
        return StepResult(Sampled(tokens, logprobs), parts)


def _logprobs(scored: _Scored, arrays: list[npt.NDArray[np.generic]]) -> list[TokenLogprob]:
    nums: Int64Array = np.full(len(scored.next_tokens), scored.num, dtype=np.int64)
    return listed(scored.next_tokens, nums, arrays)
