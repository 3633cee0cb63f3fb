"""One packed forward of the model: from a token batch to the logits it asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from shoal.cuda.graphs import GraphedForward
from shoal.cuda.transfers import Stage
from shoal.errors import InternalError
from shoal.model.hook import AttentionStep, GroupStep, StateStep, WantedRows, attention_step
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.model.lora.run_adapters import RunAdapters
from shoal.model.rotary import with_lengths
from shoal.scheduler import TokenBatch
from shoal.types import Int32Array, Int64Array
from shoal.work import SegmentWork


@dataclass(frozen=True)
class BatchInputs:
    """A batch's columns on the device, int64.

    Attributes:
        token_ids, positions, slots: [T]. Token ids that come from the batch before are still to
            be filled in. Positions may carry lengths, see `shoal.model.rotary`.
        logit_rows: [R], rows whose logits are wanted; where the last layer selects, those it
            computes, each once.
        order: [R], which of these each row of logits is; None: one after another.
        other_slots: as `slots`, in the other groups of layers.
        selects: whether the last layer computes `logit_rows` only.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    logit_rows: torch.Tensor
    order: torch.Tensor | None
    selects: bool
    other_slots: tuple[torch.Tensor, ...] = ()


class ModelRunner:
    """Runs batches through a model and its KV pool."""

    def __init__(
        self,
        model: LoadedModel,
        kv: KVPool,
        device: torch.device,
        graphs: GraphedForward | None = None,
        adapters: RunAdapters | None = None,
    ) -> None:
        """`adapters`: those of the run; None: no request has one."""
        self._model, self._kv, self._device, self._graphs = model, kv, device, graphs
        self._adapters = adapters

    def inputs(self, batch: TokenBatch, stage: Stage) -> BatchInputs:
        """The columns of a batch, put on a stage."""
        rows, order = _distinct(batch.logit_rows)
        selects = self._model.selects_rows and 0 < len(rows) < batch.num_tokens
        return BatchInputs(
            token_ids=_put(stage, batch.token_ids),
            positions=_put(stage, _positions(batch)),
            slots=_put(stage, batch.slots),
            logit_rows=_put(stage, rows if selects else batch.logit_rows),
            order=_put(stage, order) if selects and order is not None else None,
            selects=selects,
            other_slots=tuple(_put(stage, group.slots) for group in batch.others),
        )

    def __call__(self, batch: TokenBatch, inputs: BatchInputs) -> torch.Tensor:
        """Logits [R, vocabulary] of `batch.logit_rows`; [0] for a batch without tokens."""
        if batch.num_tokens == 0:
            return torch.empty(0, device=self._device)
        if not batch.others and not self._kv.is_even:
            raise InternalError("a batch of one group of layers, for KV that is divided")
        if self._graphs is not None and batch.adapters is None:
            columns = inputs.token_ids, inputs.positions, inputs.slots
            replayed = self._graphs.run(*columns, batch.attention, inputs.logit_rows)
            if replayed is not None:
                return replayed
        backend = self._kv.backend
        prepared = backend.prepare(batch.attention, self._device)
        step = AttentionStep(kv=self._kv, slots=inputs.slots, prepared=prepared)
        if inputs.selects:
            some = self._wanted(batch.attention, batch)
            step.wanted = WantedRows(inputs.logit_rows, some)
        step.others = tuple(
            GroupStep(
                slots,
                backend.prepare(group.attention, self._device),
                self._wanted(group.attention, batch) if inputs.selects else None,
            )
            for slots, group in zip(inputs.other_slots, batch.others, strict=True)
        )
        if batch.states is not None:
            assert self._kv.states is not None
            step.states = StateStep.of(self._kv.states, batch.states, self._device)
        with attention_step(step), self._adapted(batch, selects=inputs.selects):
            rows_of = None if inputs.selects else inputs.logit_rows
            logits = self._model.logits(inputs.token_ids, inputs.positions, rows_of)
        return logits if inputs.order is None else logits[inputs.order]

    def _adapted(self, batch: TokenBatch, *, selects: bool) -> AbstractContextManager[None]:
        if self._adapters is None:
            return nullcontext()
        return self._adapters.applied(
            batch.adapters, _distinct(batch.logit_rows)[0] if selects else None
        )

    def _wanted(self, work: SegmentWork, batch: TokenBatch) -> object:
        rows, _ = _distinct(batch.logit_rows)
        return self._kv.backend.prepare(work.only(rows), self._device)


def _distinct(rows: Int64Array) -> tuple[Int64Array, Int64Array | None]:
    """The rows, ascending, each once; and which of them each was, None: one after another."""
    if (rows[1:] > rows[:-1]).all():
        return rows, None
    return np.unique(rows, return_inverse=True)


def _positions(batch: TokenBatch) -> Int32Array | Int64Array:
    if batch.row_lengths is None:
        return batch.positions
    carrying: Int64Array = with_lengths(batch.positions.astype(np.int64), batch.row_lengths)
    return carrying


def _put(stage: Stage, column: Int32Array | Int64Array) -> torch.Tensor:
    return stage.put(column.astype(np.int64, copy=False))
