"""The engine: a model on a device with its KV pool, and the loop plan -> scheduler <-> executor."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from shoal.answers.detokenize import Detokenizer
from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE
from shoal.engine.outputs import OutputProcessor
from shoal.engine.pipeline import Collected, Pipeline, RequestFailed
from shoal.engine.prompt_scores import ScoreStore
from shoal.engine.release import release_from
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.engine.vector_outputs import VectorOutputs
from shoal.errors import InternalError, InvalidRequestError, ModelFailedError
from shoal.executor.executor import Executor
from shoal.executor.pooling_executor import make_executor
from shoal.machine.capacity import stated_blocks
from shoal.machine.placement import place
from shoal.machine.scored_rows import scored_rows
from shoal.model.description import ModelDescription
from shoal.model.load import LoadedModel
from shoal.model.lora.adapted_products import AdaptedProducts
from shoal.model.lora.run_adapters import RunAdapters
from shoal.model.memory import enough_memory
from shoal.planner import LengthModel, Pilot, Plan, divided, fixed_lengths
from shoal.planning import RunPlan, plan_run
from shoal.recurrence import StateMemory
from shoal.sampling.results import StepResult
from shoal.sampling.sampler import needs_history
from shoal.scheduler import (
    AdapterSlots,
    BlockPool,
    Launched,
    Scheduler,
    StateSplit,
    TokenBatch,
    state_split,
)
from shoal.simulate import part_seconds
from shoal.tensor_parallel.sharded_model import load
from shoal.types import (
    Completion,
    Int32Array,
    Int64Array,
    RequestTable,
)

MOST_FAILURES_IN_A_ROW = 1000
"""Requests that may fail one after another before the run gives up: the device is gone then."""


CANCELLED = InvalidRequestError("the request was cancelled.", code="cancelled", status_code=499)
"""What a request completes with that was given up, see `Run.cancel`."""


class Engine:
    """Holds the weights and the KV pool; runs one request table at a time."""

    def __init__(
        self,
        description: ModelDescription,
        options: EngineOptions,
        model: LoadedModel | None = None,
    ) -> None:
        """Load the weights and take the KV memory.

        Args:
            model: weights that are in memory already, see `prepare_model`; None: they are loaded.

        Raises:
            ModelError: see `load_model`; or memory ran out.
            OptionError: the KV memory holds not even one block, or does not fit the device.
        """
        self.description = description
        self.options = options
        stated_blocks(description, options)  # refused before the weights are read, if it is wrong
        self._model = load(description) if model is None else model
        with enough_memory("for the KV pool", "give a smaller --kv-memory or --token-budget"):
            placed = place(self._model, description, options)
        self._kv, self._graphs = placed.kv, placed.graphs
        self.machine = placed.machine
        self._adapted = self._adapted_products() if options.lora_bytes else None
        self._detokenizer = Detokenizer(description.tokenizer)

    def close(self) -> None:
        """Give back the weights and the KV memory, but for what a run still holds. Idempotent."""
        model: LoadedModel | None = self.__dict__.pop("_model", None)
        if model is not None:
            model.close()
        for name in ("_kv", "_graphs", "_adapted"):
            self.__dict__.pop(name, None)
        if self.description.device.type == "cuda":
            torch.cuda.empty_cache()

    def executor(self, table: RequestTable, plan: Plan) -> Executor:
        """What computes a run's token batches, for our scheduler or another; one at a time."""
        return make_executor(
            self._model,
            self._kv,
            self.description,
            table,
            plan,
            graphs=self._graphs,
            adapters=self._run_adapters(table),
        )

    def _adapted_products(self) -> AdaptedProducts:
        description = self.description
        return AdaptedProducts(self._model.module, description.dtype, description.device)

    def _run_adapters(self, table: RequestTable) -> RunAdapters | None:
        if table.adapter is None:
            return None
        if self._adapted is None:
            raise InternalError("requests with adapters, for an engine without memory for them")
        return RunAdapters(self._adapted, table.adapters)

    def _divide(self, blocks: list[int]) -> None:
        """Have so many KV blocks in each group of layers."""
        groups = [group.layers for group in self.machine.groups]
        if self.machine.states is not None:
            groups = [tuple(range(len(self._model.layers)))]
        if groups:
            with enough_memory("for the KV pool", "give a smaller --kv-memory"):
                self._kv.divide(groups, blocks)

    def _hold(self, split: StateSplit) -> None:
        """Have memory for so many blocks and states; what is there goes first."""
        held, description = self._kv.states, self.description
        if held is not None and held.num_slots != split.states:
            del held
            self._kv.states = None
        self._divide([split.blocks])
        if self._kv.states is None:
            with enough_memory("for the states", "give a smaller --kv-memory"):
                self._kv.states = StateMemory(
                    description.states, split.states, description.dtype, description.device
                )

    def run(self, table: RequestTable) -> Run:
        """Plan a table and return the run, to be iterated over; only one may be under way."""
        planned = plan_run(table, self.options, self.machine)
        plan = planned.plan
        lengths = None
        if not fixed_lengths(table).all():
            lengths = LengthModel(planned.unpiloted, table)
        pilot = (
            Pilot(table, lengths, planned.num_pilots) if lengths and planned.num_pilots else None
        )
        split = state_split(plan, table, self.machine)
        if split is None:
            blocks, states = divided(plan, table, self.machine), None
            self._divide(blocks)
        else:
            blocks, states = [split.blocks], split.slots()
            self._hold(split)
        executor = self.executor(table, plan)
        outputs: OutputProcessor | VectorOutputs = VectorOutputs(table)
        if self.description.pooling is None:
            outputs = OutputProcessor(table, self._detokenizer, self.description.eos_token_ids)
        sequential = table.per_request([needs_history(p) for p in table.params]).astype(np.bool_)
        pools = [
            BlockPool(count, window=group.window)
            for count, group in zip(blocks, self.machine.memory, strict=True)
        ]
        budget = self.machine.token_budget
        most = scored_rows(self.description)
        adapters = AdapterSlots.of(table, plan, self.machine)
        scheduler = Scheduler(
            table, plan, pools, budget, lengths, sequential, most, states, adapters
        )
        return Run(table, planned, scheduler, executor, outputs, pilot)


class Run:
    """A run under way. Iterating drives it; each iteration yields the requests it finished."""

    def __init__(
        self,
        table: RequestTable,
        planned: RunPlan,
        scheduler: Scheduler,
        executor: Executor,
        outputs: OutputProcessor | VectorOutputs,
        pilot: Pilot | None = None,
    ) -> None:
        """`pilot`: where the plan begins with one; then the rest is ordered anew at its end."""
        self.planned, self.machine = planned.figures, planned.machine
        self.plan = planned.plan
        self.stats = RunStats()
        self.stats.lengths.pilots = planned.num_pilots
        self.trace = IterationTrace()
        self.prompt_lengths = table.lengths
        self._table, self._scheduler, self._executor = table, scheduler, executor
        self._outputs, self._pilot = outputs, pilot
        self._generates = isinstance(outputs, OutputProcessor)
        self._block_bytes = BLOCK_SIZE * int(self.machine.costs.kv_bytes)
        self._group_bytes = [BLOCK_SIZE * int(g.kv_bytes) for g in self.machine.memory]
        self._end = self.plan.num_sequences
        self._failures = 0
        self._scores = ScoreStore(table, self.plan)

    def __iter__(self) -> Iterator[list[Completion]]:
        """One list of finished requests, possibly empty, per iteration.

        An exception while a batch is computed does not end the run: its sequences are tried
        again, and one that fails again alone makes its request fail (status 500).

        Raises:
            ModelFailedError: `MOST_FAILURES_IN_A_ROW` requests failed and nothing succeeded.
            DeviceLostError: the device, or a process that computes too, is gone.
        """
        began = time.perf_counter()
        pipeline = Pipeline(self._scheduler, self._executor)
        while (outcome := pipeline.next()) is not None:
            if isinstance(outcome, RequestFailed):
                self._failed(outcome.batch, outcome.error)
            elif isinstance(outcome, Collected):
                self._failures = 0
                self._accept(outcome.launched, outcome.result)
                self.trace.add(
                    outcome.batch,
                    time.perf_counter() - began,
                    self._scheduler.num_running,
                    self._bytes_in_use() // self._block_bytes,
                )
            yield self._take()
        if last := self._take():
            yield last
        left = self._scheduler.blocks_left()
        if left:
            raise InternalError(f"{left} KV blocks left after the run")

    def _bytes_in_use(self) -> int:
        pools = zip(self._scheduler.pools, self._group_bytes, strict=True)
        return sum(pool.used_blocks * size for pool, size in pools) + self._state_bytes()[0]

    def _state_bytes(self) -> tuple[int, int]:
        """Bytes of states in use, and the most there were."""
        states, size = self._scheduler.states, int(self.machine.costs.state_bytes)
        if states is None:
            return 0, 0
        return states.pool.used_blocks * size, states.pool.peak_blocks * size

    def cancel(self, requests: Int64Array) -> None:
        """Give up some requests, between two iterations: they take no part in the next one.

        Each that was not completed completes with the error `CANCELLED`.

        Args:
            requests: int64 [R].
        """
        given_up = self._outputs.unfinished(requests)
        for request in given_up.tolist():
            self._outputs.fail(request, CANCELLED)
        self._pilot_ended(self._drop(given_up))

    def release(self, parts: int) -> Int64Array:
        """Give up a part of what has not begun, for so many idle devices to run.

        So much that all end at about the same time; called between two iterations.

        Returns:
            Requests that are not completed here, int64 [R], ascending; there may be none.
        """
        begun, end = self._scheduler.begun, self._end
        seconds = part_seconds(self._table, self.plan, self.machine)
        first = release_from(self.plan, seconds, begun, end, parts)
        if first is None:
            return np.zeros(0, dtype=np.int64)
        for sequence in range(first, end):
            self._scheduler.cancel(sequence)
            self._scores.drop(sequence)
        self._end = first
        released = np.unique(self.plan.sequence_request[first:end]).astype(np.int64)
        return self._outputs.unfinished(released)

    def _accept(self, launched: Launched, result: StepResult) -> None:
        self._scores.add(result.scores)
        sequences, sampled = launched.batch.sample_sequences, result.sampled
        finished = np.ones(len(sequences), dtype=np.bool_)
        wanted = self._scheduler.wanted(launched)
        if not wanted.all():
            sequences, sampled = sequences[wanted], sampled.only(wanted)
        ended = self._scheduler.ended(launched)
        for sequence in self._outputs.unknown(np.concatenate([sequences, ended])):
            self._begin(sequence)
        finished[wanted] = self._outputs.accept(sequences, sampled)
        self._outputs.complete(ended)
        self._scheduler.settle(launched, result.sampled.token_ids, finished)
        ended = sequences[finished[wanted]]
        self._executor.finish(ended.tolist())
        self._pilot_ended(ended)

    def _pilot_ended(self, sequences: Int32Array) -> None:
        """Order the rest anew if these were the last ones that the pilot waited for."""
        if self._pilot is not None and self._pilot.ended(sequences):
            first = self._scheduler.first_untouched
            self.plan = self._pilot.replan(self.plan, first)
            self._scheduler.replan(self.plan)
            self._executor.replan(self.plan)
            self._scores.replan(self.plan, first)

    def _begin(self, sequence: int) -> None:
        request = int(self.plan.sequence_request[sequence])
        self._outputs.add(sequence, request, int(self.plan.sequence_choice[sequence]))
        if not self._outputs.has_prompt_logprobs(request):
            scores = self._scores.of(sequence)
            if scores is not None:
                self._outputs.set_prompt_logprobs(request, scores)
        self._scores.drop(sequence)

    def _failed(self, batch: TokenBatch, error: Exception) -> None:
        """Give up the request of the single sequence of a batch."""
        self._failures += not isinstance(error, InvalidRequestError)
        if self._failures > MOST_FAILURES_IN_A_ROW:
            raise ModelFailedError(
                f"the model failed on {MOST_FAILURES_IN_A_ROW} requests in a row, the last time "
                f"with {type(error).__name__}: {error}. What has finished is saved; when the "
                "cause is mended, run the same command again."
            ) from error
        for request in np.unique(self.plan.sequence_request[batch.sequences]).tolist():
            self._outputs.fail(request, model_error(error))
            self._drop(np.array([request]))

    def _drop(self, requests: Int64Array) -> Int32Array:
        """Let all sequences of some requests run no more; returns them."""
        sequences = np.flatnonzero(np.isin(self.plan.sequence_request, requests)).astype(np.int32)
        for sequence in sequences.tolist():
            self._scheduler.cancel(sequence)
            self._scores.drop(sequence)
        self._executor.finish(sequences.tolist())
        return sequences

    def _take(self) -> list[Completion]:
        counts, stats = self._scheduler.stats, self.stats
        completions = self._outputs.take()
        stats.iterations = counts.iterations
        stats.tokens = counts.tokens
        stats.prompt_tokens_computed = counts.prompt_tokens_computed
        stats.prompt_tokens_recomputed = counts.prompt_tokens_recomputed
        stats.generated_tokens = counts.generated_tokens if self._generates else 0
        stats.preemptions = counts.preemptions
        stats.running_sequences = self._scheduler.num_running
        if self._scheduler.length_coverage is not None:
            self._scheduler.length_coverage.report(stats.lengths)
        stats.kv_bytes_in_use = self._bytes_in_use()
        pools = zip(self._scheduler.pools, self._group_bytes, strict=True)
        peak = sum(pool.peak_blocks * size for pool, size in pools)
        stats.peak_kv_bytes = peak + self._state_bytes()[1]
        return completions


def model_error(error: Exception) -> InvalidRequestError:
    """The record of a request that failed twice: its own fault, or the model's."""
    if isinstance(error, InvalidRequestError):
        return error
    return InvalidRequestError(
        f"the model failed on this request twice: {type(error).__name__}: {error}",
        code="model_error",
        status_code=500,
    )
