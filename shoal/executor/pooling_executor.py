"""Token batches of a model that does not generate: where a token would be sampled, a vector is.

A batch says which sequences sample and from which row. Here that row is a sequence's vector
(`LastRows`), or the moment to add up what its rows gave (`MeanRows`). The scheduler does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from shoal.config import PoolingType
from shoal.cuda.graphs import GraphedForward
from shoal.cuda.lost import raise_if_lost
from shoal.cuda.transfers import DirectStage, Stage, Transfers
from shoal.errors import InternalError, InvalidLogitsError
from shoal.executor.executor import Executor, PendingResult, TorchExecutor
from shoal.executor.forward import ModelRunner
from shoal.executor.mean_rows import MeanRows
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.model.lora.run_adapters import RunAdapters
from shoal.planner import Plan
from shoal.sampling.results import Sampled, StepResult
from shoal.scheduler import TokenBatch
from shoal.types import Float32Array, RequestTable


class Pooler(Protocol):
    """Makes vectors of the rows that a batch gives."""

    def rows(self, batch: TokenBatch) -> TokenBatch:
        """The batch with the rows in `logit_rows` that are needed."""

    def plan(self, batch: TokenBatch, stage: Stage) -> Callable[[torch.Tensor], torch.Tensor]:
        """Put on the stage what is needed where the rows are.

        Returns:
            Vectors [S, width] of the batch's samples, from its rows [R, width].
        """

    def collected(self, batch: TokenBatch) -> None:
        """The oldest batch under way was computed, and is not undone any more."""

    def finish(self, sequences: list[int]) -> None:
        """These are not asked for again."""


class LastRows:
    """A prompt's vector is that of its last token: of a shared segment's, where all is shared."""

    def __init__(self) -> None:
        self._retained: dict[int, torch.Tensor] = {}
        """Rows [width] that later batches ask for, by segment."""

    def rows(self, batch: TokenBatch) -> TokenBatch:
        """See `Pooler`."""
        return batch

    def plan(self, batch: TokenBatch, stage: Stage) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Pooler`."""
        index = stage.put(batch.sample_logits.astype(np.int64))

        def vectors(rows: torch.Tensor) -> torch.Tensor:
            kept = [self._retained[segment][None] for segment in batch.sample_retained]
            parts = [rows, *kept] if len(batch.logit_rows) else kept
            found = torch.cat(parts)[index] if parts else rows.new_empty(0, 0)
            for row, segment in batch.retain:
                self._retained[segment] = rows[row].clone()
            return found

        return vectors

    def collected(self, batch: TokenBatch) -> None:
        """See `Pooler`."""
        for segment in batch.release:
            self._retained.pop(segment, None)

    def finish(self, sequences: list[int]) -> None:
        """See `Pooler`."""


class PoolingExecutor:
    """See `Executor`; results have `Sampled.vectors`."""

    def __init__(
        self,
        model: LoadedModel,
        kv: KVPool,
        description: ModelDescription,
        table: RequestTable,
        plan: Plan,
        transfers: Transfers | None = None,
        graphs: GraphedForward | None = None,
    ) -> None:
        """See `TorchExecutor`."""
        assert description.pooling is not None
        self._device, self._model = description.device, model
        self._runner = ModelRunner(model, kv, self._device, graphs)
        mean = description.pooling.type is PoolingType.mean
        self._pooler: Pooler = MeanRows(table, plan) if mean else LastRows()
        if transfers is None and self._device.type == "cuda":
            transfers = Transfers.cuda(self._device)
        self._transfers = transfers

    @property
    def runs_ahead(self) -> bool:
        """See `Executor`."""
        return self._transfers is not None

    @torch.inference_mode()
    def launch(self, batch: TokenBatch) -> PendingResult:
        """On the host to the end; on a device enqueue all of it."""
        if len(batch.feedback.rows):
            raise InternalError("a sequence goes on where nothing is generated")
        stage: Stage
        if self._transfers is None:
            stage, landing = DirectStage(), None
        else:
            stage, landing = self._transfers.turn()
        wanted = self._pooler.rows(batch)
        inputs = self._runner.inputs(wanted, stage)
        pool = self._pooler.plan(batch, stage)
        stage.send()
        vectors = pool(self._runner(wanted, inputs)).float()
        if landing is None:
            return PendingResult(batch, lambda: _result(batch, vectors.numpy()))
        arrive = landing.begin([vectors])
        return PendingResult(batch, lambda: _result(batch, arrive()[0].astype(np.float32)))

    def collect(self, pending: PendingResult) -> StepResult:
        """Wait for a batch.

        Raises:
            InvalidLogitsError: the model gave numbers that are none.
            DeviceLostError: a process that took part is gone.
        """
        result = pending.wait()
        self._model.check()
        self._pooler.collected(pending.batch)
        return result

    def execute(self, batch: TokenBatch) -> StepResult:
        """Compute a batch to its end, when none is under way."""
        return self.collect(self.launch(batch))

    def recover(self, error: Exception) -> None:
        """See `Executor`."""
        raise_if_lost(error, self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def finish(self, sequences: list[int]) -> None:
        """See `Executor`."""
        self._pooler.finish(sequences)

    def replan(self, plan: Plan) -> None:
        """Lengths are known, so no plan is made anew."""
        raise InternalError("a plan was made anew though no length had to be learnt")


def make_executor(
    model: LoadedModel,
    kv: KVPool,
    description: ModelDescription,
    table: RequestTable,
    plan: Plan,
    graphs: GraphedForward | None = None,
    adapters: RunAdapters | None = None,
) -> Executor:
    """What computes a run of a model, by what the model gives; see `TorchExecutor`.

    Raises:
        InternalError: adapters for a model that does not generate; they are refused before.
    """
    if description.pooling is None:
        return TorchExecutor(model, kv, description, table, plan, graphs=graphs, adapters=adapters)
    if adapters is not None:
        raise InternalError("adapters of a model that does not generate")
    return PoolingExecutor(model, kv, description, table, plan, graphs=graphs)


def _result(batch: TokenBatch, vectors: Float32Array) -> StepResult:
    """vectors: [S, width]."""
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        sequences = tuple(batch.sample_sequences[wrong].tolist())
        raise InvalidLogitsError(
            sequences, f"the model gave NaN or infinity for {len(sequences)} prompts of a batch"
        )
    none = np.zeros(len(batch.sample_sequences), dtype=np.int32)
    return StepResult(Sampled(none, vectors=vectors), [])
