"""Turns token batches into sampled tokens.

`Executor` is what the engine needs of one; `TorchExecutor` runs the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from shoal.answers.grammar import grammar_compiler
from shoal.cuda.graphs import GraphedForward
from shoal.cuda.lost import raise_if_lost
from shoal.cuda.transfers import Transfers
from shoal.executor.device_side import DeviceSide
from shoal.executor.forward import ModelRunner
from shoal.executor.host_side import HostSide
from shoal.kernels import load_kernels
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.model.lora.run_adapters import RunAdapters
from shoal.planner import Plan
from shoal.sampling.prompt_scoring import PromptScorer
from shoal.sampling.random import stream_key
from shoal.sampling.results import StepResult
from shoal.sampling.sampler import Sampler
from shoal.scheduler import TokenBatch
from shoal.types import RequestTable


@dataclass(frozen=True)
class PendingResult:
    """What a launched batch will give.

    Attributes:
        wait: waits for it; to be called once, by the executor.
    """

    batch: TokenBatch
    wait: Callable[[], StepResult]


class Executor(Protocol):
    """Computes token batches of one run, in the order they are launched in.

    At most two are under way at a time: launched and not collected. The caller keeps what `launch`
    gives for each of them.
    """

    @property
    def runs_ahead(self) -> bool:
        """Whether `launch` returns while the batch runs, so that planning the next one pays."""

    def launch(self, batch: TokenBatch) -> PendingResult:
        """Start a batch. If it raises, the batch is not under way; the same rows may come again."""

    def collect(self, pending: PendingResult) -> StepResult:
        """Wait for the oldest batch under way, which is so no longer.

        If it raises, nothing that was launched later can be trusted: drop it and call `recover`.
        """

    def execute(self, batch: TokenBatch) -> StepResult:
        """Launch and collect, when none is under way."""

    def recover(self, error: Exception) -> None:
        """After an error, no result being waited for: wait for the device, free what it can.

        Raises:
            DeviceLostError: the device does not work any more.
        """

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
        transfers: Transfers | None = None,
        graphs: GraphedForward | None = None,
        adapters: RunAdapters | None = None,
    ) -> None:
        """Compute one run.

        Args:
            transfers: copies to and from the device, which make it run ahead of the host; None:
                those of a CUDA device, none on the CPU.
            graphs: replays of small batches, on CUDA.
            adapters: those of the run; None: no request has one.
        """
        self._device, self._table, self._plan = description.device, table, plan
        self._model = model
        runner = ModelRunner(model, kv, self._device, graphs, adapters)
        vocab_size, eos = description.vocab_size, description.eos_token_ids
        compiler = grammar_compiler(description.tokenizer, vocab_size, eos)
        kernels = load_kernels()
        self._sampler = Sampler(vocab_size, eos, kernels, compiler)
        if transfers is None and self._device.type == "cuda":
            transfers = Transfers.cuda(self._device)
        self.runs_ahead = transfers is not None
        scorer = PromptScorer(vocab_size)
        self._host = HostSide(runner, self._sampler, scorer, kernels)
        self._ahead = (
            None
            if transfers is None
            else DeviceSide(runner, self._sampler, scorer, description, transfers)
        )
        self._retained: dict[int, torch.Tensor] = {}
        """Logits [vocabulary] that later batches sample from, by segment."""

    @torch.inference_mode()
    def launch(self, batch: TokenBatch) -> PendingResult:
        """On the host to the end; on a device enqueue all of it. Registers what is new to it."""
        self._register(self._sampler.unknown(batch.sample_sequences).tolist())
        wait: Callable[[], StepResult]
        if self._ahead is None:
            logits, done = self._host.launch(batch, self._retained)
            wait = _done(done)
        else:
            logits, wait = self._ahead.launch(batch, self._retained)
        for row, segment in batch.retain:
            self._retained[segment] = logits[row].clone()
        return PendingResult(batch, wait)

    def collect(self, pending: PendingResult) -> StepResult:
        """Wait for a batch, and drop the retained logits that it was the last to sample from.

        Raises:
            InvalidLogitsError: the model gave logits that are not numbers.
            DeviceLostError: a process that took part is gone.
        """
        result = pending.wait()
        self._model.check()
        for segment in pending.batch.release:
            self._retained.pop(segment, None)
        return result

    def execute(self, batch: TokenBatch) -> StepResult:
        """Compute a batch to its end, when none is under way."""
        return self.collect(self.launch(batch))

    def recover(self, error: Exception) -> None:
        """Find out whether the device still works, and give cached memory back to it."""
        raise_if_lost(error, self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def finish(self, sequences: list[int]) -> None:
        """Forget the sampling state of sequences that get no more tokens."""
        for sequence in sequences:
            if sequence in self._sampler:
                self._sampler.remove(sequence)

    def replan(self, plan: Plan) -> None:
        """Take a plan in which only sequences that were never asked for have other numbers."""
        self._plan = plan

    def _register(self, sequences: list[int]) -> None:
        for sequence in sequences:
            request = int(self._plan.sequence_request[sequence])
            key = stream_key(self._table, request, int(self._plan.sequence_choice[sequence]))
            params, prompt = self._table.sampling(request), self._table.prompt(request)
            self._sampler.add(sequence, params, key, prompt)


def _done(result: StepResult) -> Callable[[], StepResult]:
    return lambda: result
