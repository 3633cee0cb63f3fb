"""Turns a token batch into sampled tokens.

`Executor` is what the engine needs of one; `TorchExecutor` runs the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from shoal.engine.description import ModelDescription
from shoal.engine.hook import AttentionStep, WantedRows, attention_step
from shoal.engine.kv import KVPool
from shoal.engine.logprobs import prompt_logprobs
from shoal.engine.model import LoadedModel
from shoal.engine.random import stream_key
from shoal.engine.rows import LogitRows
from shoal.engine.sampling import Sampled, Sampler
from shoal.kernels import load_kernels
from shoal.planner import Plan
from shoal.scheduler import TokenBatch
from shoal.types import Int64Array, RequestTable, TokenLogprob


@dataclass(frozen=True)
class PromptScores:
    """Logprobs of the prompt tokens [first, ...) of a sequence."""

    sequence: int
    first: int
    logprobs: list[TokenLogprob]


@dataclass(frozen=True)
class StepResult:
    """What one iteration gave: a token per sampled sequence, and scores of prompts."""

    sampled: Sampled
    scores: list[PromptScores]


class Executor(Protocol):
    """Computes token batches of one run."""

    def execute(self, batch: TokenBatch) -> StepResult:
        """Run one batch. If it raises, the same rows may be asked for again."""

    def finish(self, sequences: list[int]) -> None:
        """Forget sequences that get no more tokens."""

    def replan(self, plan: Plan) -> None:
        """Sequences that were never asked for have other numbers from now on."""


class TorchExecutor:
    """Runs batches through a transformers model, segment attention and the sampler."""

    def __init__(
        self,
        model: LoadedModel,
        kv: KVPool,
        description: ModelDescription,
        table: RequestTable,
        plan: Plan,
    ) -> None:
        self._model, self._kv, self._device = model, kv, description.device
        self._table, self._plan = table, plan
        self._sampler = Sampler(description.vocab_size, description.eos_token_ids, load_kernels())
        self._registered: set[int] = set()
        self._retained: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def execute(self, batch: TokenBatch) -> StepResult:
        """See `Executor`."""
        logits = self._forward(batch)
        result = StepResult(self._sample(batch, logits), self._score(batch, logits))
        for place, segment in batch.retain:
            self._retained[segment] = logits[place].clone()
        for segment in batch.release:
            self._retained.pop(segment, None)
        return result

    def finish(self, sequences: list[int]) -> None:
        """See `Executor`."""
        for sequence in self._registered.intersection(sequences):
            self._registered.remove(sequence)
            self._sampler.remove(sequence)

    def replan(self, plan: Plan) -> None:
        """See `Executor`."""
        self._plan = plan

    def _forward(self, batch: TokenBatch) -> torch.Tensor:
        """Logits [R, vocabulary] of the rows asked for."""
        if batch.num_tokens == 0:
            return torch.empty(0, device=self._device)
        backend = self._kv.backend
        step = AttentionStep(
            kv=self._kv,
            slots=self._tensor(batch.slots),
            prepared=backend.prepare(batch.attention, self._device),
        )
        rows, places = np.unique(batch.logit_rows, return_inverse=True)
        selects = self._model.selects_rows and 0 < len(rows) < batch.num_tokens
        if selects:
            prepared = backend.prepare(batch.attention.only(rows), self._device)
            step.wanted = WantedRows(self._tensor(rows), prepared)
        with attention_step(step):
            logits = self._model.logits(
                self._tensor(batch.token_ids),
                self._tensor(batch.positions),
                None if selects else self._tensor(batch.logit_rows),
            )
        if selects and not np.array_equal(places, np.arange(len(rows))):
            return logits[self._tensor(places)]
        return logits

    def _sample(self, batch: TokenBatch, logits: torch.Tensor) -> Sampled:
        if len(batch.sample_sequences) == 0:
            return Sampled(np.zeros(0, dtype=np.int32))
        self._register(batch.sample_sequences.tolist())
        rows = self._rows(logits, batch.sample_source)
        return self._sampler.sample(rows, batch.sample_sequences, batch.sample_positions)

    def _rows(self, logits: torch.Tensor, source: Int64Array) -> LogitRows:
        """The rows to sample from; see `TokenBatch.sample_source`."""
        if source.min() >= 0:
            return LogitRows((logits,), source)
        kept = np.unique(source[source < 0])
        parts = [self._retained[-1 - number][None] for number in kept.tolist()]
        first = logits.shape[0] if logits.ndim == 2 else 0
        place = np.where(source >= 0, source, first + np.searchsorted(kept, source))
        return LogitRows((logits, *parts) if first else tuple(parts), place)

    def _register(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if sequence not in self._registered:
                request = int(self._plan.sequence_request[sequence])
                key = stream_key(self._table, request, int(self._plan.sequence_choice[sequence]))
                params, prompt = self._table.sampling(request), self._table.prompt(request)
                self._sampler.add(sequence, params, key, prompt)
                self._registered.add(sequence)

    def _score(self, batch: TokenBatch, logits: torch.Tensor) -> list[PromptScores]:
        scores = []
        for wanted in batch.prompt_logits:
            request = int(self._plan.sequence_request[wanted.sequence])
            tokens = self._table.prompt(request)[wanted.first : wanted.first + wanted.count]
            rows = logits[wanted.place : wanted.place + wanted.count]
            num = self._table.sampling(request).num_logprobs or 0
            found = prompt_logprobs(rows, tokens, num)
            scores.append(PromptScores(wanted.sequence, wanted.first, found))
        return scores

    def _tensor(self, column: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(column.astype(np.int64, copy=False)).to(self._device)
