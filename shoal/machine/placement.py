"""How large the KV pool is, and the token budget that goes with it.

On the CPU the pool is as large as stated, or 1 GiB. On CUDA it takes what measurement leaves: the
weights are there, the most demanding batch has been run through a trial pool, graphs have been
captured in it; what the device then still has is for KV, but for the share that `memory_fraction`
keeps free for the gaps between tensors that no measurement of tensors shows.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from shoal.attention import AttentionBackend, select_backend
from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE, Machine
from shoal.cuda.buckets import bucket_for, buckets
from shoal.cuda.capture import CudaRecorder, Recorder
from shoal.cuda.graphs import (
    GraphableAttention,
    GraphableWork,
    GraphedForward,
    scratch_blocks,
)
from shoal.machine.calibrate import CANDIDATES, calibrated
from shoal.machine.calibrate_batches import STEPS
from shoal.machine.calibrate_rates import LONG, ROWS
from shoal.machine.calibration_cache import Calibration, remembered, token_budget_of
from shoal.machine.capacity import stated_blocks
from shoal.machine.device_memory import (
    CudaMemory,
    DeviceMemory,
    MemoryReading,
    check_stated,
    held_by_others,
    no_room,
    peak_of,
)
from shoal.machine.graph_trial import graphed_forward
from shoal.machine.largest_batch import SHARED, blocks_for_probe, probe
from shoal.machine.memory_groups import memory_groups
from shoal.machine.model_costs import machine_of
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.recurrence import StateMemory

MEASURED_STATES = 64
"""States of recurrent layers in the trial pool: larger batches share some."""

TRIAL_TOKENS = ROWS * -(-(LONG + STEPS) // BLOCK_SIZE) * BLOCK_SIZE
"""Tokens of the trial pool: as many as measuring the model's rates can use, if they take no more
than half of what is there. So a batch that would leave less than half for KV does not fit beside
it, and the budget is halved."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """A KV pool in memory, and what was found out on the way.

    Attributes:
        kv: may have scratch blocks behind those that the scheduler uses.
        machine: the device with the model on it.
        graphs: replays of small batches; None where there are none.
    """

    kv: KVPool
    machine: Machine
    graphs: GraphedForward | None = None


def place(model: LoadedModel, description: ModelDescription, options: EngineOptions) -> Placement:
    """Take the memory for KV.

    Raises:
        OptionError: what is stated does not fit, or nothing is left.
    """
    device = description.device
    backend = model.mirrored(select_backend(description.dtype, device, model.layers))
    placing = Placing(model, description, options, backend)
    if device.type != "cuda":
        return placing.as_stated()
    return placing.by_measurement(CudaMemory(device), lambda: CudaRecorder(device))


class Placing:
    """The steps of placing one model's KV pool."""

    def __init__(
        self,
        model: LoadedModel,
        description: ModelDescription,
        options: EngineOptions,
        backend: AttentionBackend,
        sizes: tuple[int, ...] = buckets(),
    ) -> None:
        """`sizes`: the rows that graphs are captured for, ascending."""
        self._model, self._description, self._options = model, description, options
        self._backend, self._sizes = backend, sizes
        self._stated = stated_blocks(description, options)
        self._block_bytes = BLOCK_SIZE * description.kv_bytes_per_token

    def as_stated(self) -> Placement:
        """A pool of the size that is stated; nothing is measured but the token budget."""
        assert self._stated is not None
        kv = self._pool(self._stated)
        calibration = self._calibration(kv, self._stated)
        budget = self._options.token_budget or token_budget_of(calibration)
        return Placement(kv, self._machine(calibration, budget, self._stated))

    def by_measurement(self, memory: DeviceMemory, recorder: Callable[[], Recorder]) -> Placement:
        """A pool of the size that is stated, or of all that is left.

        Args:
            recorder: makes one; what it recorded goes when it does.

        Raises:
            OptionError: that does not fit, or nothing is left.
        """
        memory.empty_cache()
        weights = memory.allocated() + self._options.lora_bytes
        reading = MemoryReading(memory.total(), held_by_others(memory), weights, activations=0)
        trial_blocks = self._trial_blocks(reading)
        kv = self._pool(trial_blocks)
        calibration = self._calibration(
            kv, trial_blocks, lambda: self._graphs(kv, trial_blocks, CANDIDATES[-1], recorder())
        )
        budget = self._options.token_budget or token_budget_of(calibration)
        graph_bytes = self._graph_bytes(kv, trial_blocks, budget, memory, recorder)
        reading = replace(reading, graphs=graph_bytes or 0)
        reading, budget = self._largest_batch(reading, kv, trial_blocks, memory, calibration)
        num_blocks = self._stated or self._description.kv_blocks(self._left(reading))
        del kv
        # A stand-in for what is captured, and its pool, may be part of a cycle.
        gc.collect()
        memory.empty_cache()
        _log.info("%d KV blocks beside %s", num_blocks, reading)
        kv = self._pool(num_blocks)
        graphs = None if graph_bytes is None else self._graphs(kv, num_blocks, budget, recorder())
        return Placement(kv, self._machine(calibration, budget, num_blocks), graphs)

    def _machine(self, calibration: Calibration | None, budget: int, num_blocks: int) -> Machine:
        tokens = num_blocks * BLOCK_SIZE
        groups = memory_groups(self._description, self._options, self._model.windows)
        machine = machine_of(self._description, calibration, budget, tokens, groups=groups)
        return replace(machine, adapter_bytes=self._options.lora_bytes)

    def _pool(self, num_blocks: int) -> KVPool:
        """A pool of so many blocks, with scratch blocks behind them where graphs may need them."""
        description, layers = self._description, self._model.layers
        blocks = num_blocks + self._scratch
        dtype, device = description.dtype, description.device
        owners = self._model.owners
        kv = KVPool(self._backend, layers, blocks, BLOCK_SIZE, dtype, device, owners)
        if description.states:
            # To measure with; a run divides the memory anew.
            kv.states = StateMemory(description.states, MEASURED_STATES, dtype, device)
        return kv

    @property
    def _graphable(self) -> bool:
        # Which chunks there are to compute together is not fixed in a graph.
        return not self._description.states and isinstance(self._backend, GraphableAttention)

    @property
    def _scratch(self) -> int:
        return scratch_blocks(self._sizes, BLOCK_SIZE) if self._graphable else 0

    def _calibration(
        self,
        kv: KVPool,
        num_blocks: int,
        make_graphs: Callable[[], GraphedForward | None] = lambda: None,
    ) -> Calibration | None:
        if self._options.token_budget:
            return remembered(self._description)
        return calibrated(self._model, self._description, kv, num_blocks, make_graphs)

    def _left(self, reading: MemoryReading) -> int:
        """Bytes for the scheduler's blocks."""
        return reading.left(self._options.memory_fraction) - self._scratch * self._block_bytes

    def _trial_blocks(self, reading: MemoryReading) -> int:
        """Blocks of the pool to measure in: what it takes, more where there is plenty."""
        left, tokens = self._left(reading), self._options.token_budget or CANDIDATES[0]
        needed = blocks_for_probe(max(tokens, self._sizes[-1]))
        if needed * self._block_bytes > left:
            raise no_room(reading, self._options.memory_fraction, tokens)
        if self._options.token_budget:
            return needed
        return max(needed, min(TRIAL_TOKENS // BLOCK_SIZE, left // 2 // self._block_bytes))

    def _largest_batch(
        self,
        reading: MemoryReading,
        kv: KVPool,
        trial_blocks: int,
        memory: DeviceMemory,
        calibration: Calibration | None,
    ) -> tuple[MemoryReading, int]:
        """The token budget, and the reading with what its batches take.

        A budget that is not stated is halved until its batch runs, and leaves a pool that holds
        what is stated, or at least the tokens of such a batch.
        """
        stated, fraction = self._options.token_budget, self._options.memory_fraction
        budget = stated or token_budget_of(calibration)
        while True:
            last = bool(stated) or budget // 2 < CANDIDATES[0]
            if budget <= trial_blocks * BLOCK_SIZE:
                activations = self._activations(budget, kv, memory)
                if activations is not None:
                    others = held_by_others(memory)
                    reading = replace(reading, other=others, activations=activations)
                    least = self._stated or (1 if stated else blocks_for_probe(budget))
                    if self._left(reading) >= least * self._block_bytes:
                        return reading, budget
                    if last and self._stated:
                        taken = (self._stated + self._scratch) * self._block_bytes
                        check_stated(taken, reading, fraction)
            if last:
                raise no_room(reading, fraction, budget)
            budget //= 2

    def _activations(self, rows: int, kv: KVPool, memory: DeviceMemory) -> int | None:
        """Bytes that the most demanding batch of `rows` rows takes; None: it does not fit."""
        try:
            return peak_of(memory, lambda: probe(self._model, kv, self._description, rows))
        except torch.OutOfMemoryError:
            memory.empty_cache()
            return None

    def _graph_bytes(
        self,
        kv: KVPool,
        num_blocks: int,
        budget: int,
        memory: DeviceMemory,
        recorder: Callable[[], Recorder],
    ) -> int | None:
        """What graphs take as far as they are captured by the trial; None: there will be none."""
        memory.empty_cache()
        before = memory.free()
        graphs = self._graphs(kv, num_blocks, budget, recorder())
        return None if graphs is None else max(0, before - memory.free())

    def _graphs(
        self, kv: KVPool, num_blocks: int, budget: int, recorder: Recorder
    ) -> GraphedForward | None:
        if not self._graphable:
            return None
        # Triton is installed where its backend was selected, and need not be elsewhere.
        from shoal.attention.triton import Capacity

        backend, device = self._backend, self._description.device
        assert isinstance(backend, GraphableAttention)

        # A list names a block once per item that reads it: a segment's own rows, and its users'.
        blocks = (SHARED + 1) * num_blocks

        def fixed(rows: int) -> GraphableWork:
            return backend.fixed(Capacity(rows=rows, blocks=blocks), device)

        # Every row of a batch takes a slot, and a token of the budget: there are no larger batches.
        slots, enough = num_blocks * BLOCK_SIZE, bucket_for(self._sizes, budget)
        most = min(slots, enough or slots)
        sizes = tuple(size for size in self._sizes if size <= most)
        return graphed_forward(
            self._model, kv, self._description, recorder, fixed, num_blocks, sizes
        )
