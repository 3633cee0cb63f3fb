"""Drives an executor with a baseline scheduler, to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.policies.blocks import PrefixCache
from benchmarks.policies.scheduler import LruScheduler, LruStats, waiting_sequences
from shoal.config import Order, Sharing
from shoal.errors import InternalError
from shoal.planner import Plan, make_plan
from shoal.scheduler import TokenBatch
from shoal.types import BoolArray, Int32Array, RequestTable


class Sampled(Protocol):
    """What an executor sampled."""

    @property
    def token_ids(self) -> Int32Array:
        """int32 [S]"""


class Result(Protocol):
    """What an executor returns."""

    @property
    def sampled(self) -> Sampled:
        """A token for each of the batch's `sample_sequences`."""


class BatchExecutor(Protocol):
    """The part of `shoal.executor.executor.Executor` that a baseline needs."""

    def execute(self, batch: TokenBatch) -> Result:
        """Run one batch."""

    def finish(self, sequences: list[int]) -> None:
        """Forget sequences that get no more tokens."""


@dataclass(frozen=True)
class Limits:
    """What a baseline may use at a time."""

    token_budget: int
    max_requests: int
    num_blocks: int
    block_size: int


@dataclass(frozen=True)
class LruRun:
    """What a run did.

    Attributes:
        token_ids: the generated tokens of each sequence, in the order of the plan.
        seconds: of the whole run.
        execute_seconds: those of them inside the executor: what the run would take if the
            baseline's scheduling, which waits for the device here, cost nothing.
    """

    token_ids: list[list[int]]
    seconds: float
    execute_seconds: float
    stats: LruStats


def unshared_plan(table: RequestTable) -> Plan:
    """All choices of all requests as they come; nothing is planned."""
    return make_plan(table, sharing=Sharing.none, order=Order.input)


def run_lru(
    table: RequestTable,
    plan: Plan,
    executor: BatchExecutor,
    limits: Limits,
    eos_token_ids: Sequence[int] = (),
    check: Callable[[], None] = lambda: None,
) -> LruRun:
    """Run all sequences of an unshared plan.

    Args:
        eos_token_ids: tokens that end an answer besides its length.
        check: called after every iteration; it may raise to end the run.

    Raises:
        InternalError: a sequence does not fit the KV blocks, or blocks are left at the end.
    """
    began = time.perf_counter()
    cache = PrefixCache(limits.num_blocks, limits.block_size)
    sequences = waiting_sequences(table, plan, limits.block_size)
    scheduler = LruScheduler(sequences, cache, limits.token_budget, limits.max_requests)
    longest = table.max_new_tokens[plan.sequence_request]
    inside = 0.0
    while (batch := scheduler.step()) is not None:
        entered = time.perf_counter()
        tokens = executor.execute(batch).sampled.token_ids
        inside += time.perf_counter() - entered
        finished = _finished(batch, tokens, longest, eos_token_ids)
        scheduler.commit(batch, tokens, finished)
        if finished.any():
            executor.finish(batch.sample_sequences[finished].tolist())
        check()
    if cache.free_blocks != limits.num_blocks:
        raise InternalError(f"{limits.num_blocks - cache.free_blocks} KV blocks left after the run")
    seconds = time.perf_counter() - began
    answers = [s.tokens[s.prompt : s.known].tolist() for s in sequences]
    return LruRun(answers, seconds, inside, scheduler.stats)


def _finished(
    batch: TokenBatch, tokens: Int32Array, longest: Int32Array, eos_token_ids: Iterable[int]
) -> BoolArray:
    ends: BoolArray = batch.sample_positions + 1 >= longest[batch.sample_sequences]
    return ends | np.isin(tokens, list(eos_token_ids))
