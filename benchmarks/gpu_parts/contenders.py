"""Policies: the same model, executor and KV pool under different schedulers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.policies.run import Limits, run_lru, unshared_plan
from benchmarks.workloads import Workload
from shoal.config import OrderOption, Sharing
from shoal.engine.engine import Engine
from shoal.scheduler import BLOCK_SIZE
from shoal.types import Completion, RequestParams, RequestTable

OURS = "shoal"
LRU_BUDGET = 2048
"""Of the baselines, if it is better for them than ours."""


@dataclass(frozen=True)
class Policy:
    """How requests are scheduled.

    Attributes:
        sorts: the requests come in the order of their token ids.
        sharing, order: of the planner; None: a baseline, which plans nothing.
        max_requests: most sequences a baseline runs at a time.
    """

    sorts: bool = False
    sharing: Sharing | None = None
    order: OrderOption = OrderOption.auto
    max_requests: int = 256


POLICIES = {
    OURS: Policy(sharing=Sharing.forest),
    "sorted-lru": Policy(sorts=True),
    "paper": Policy(sharing=Sharing.paper, order=OrderOption.ratio),
    "fcfs-lru": Policy(),
    "sorted-lru-1024": Policy(sorts=True, max_requests=1024),
}
"""256 sequences are the baselines' limit; 1,024 is what vLLM takes by default on a device of at
least 70 GiB that is no A100 (`vllm/engine/arg_utils.py`)."""


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        seconds: planning included.
        execute_seconds: see `LruRun`; None for ours, whose scheduling overlaps the device's work.
        token_ids: per request, in the order the policy got them, and choice.
        prefill_tokens: prompt tokens run through the model, again after a preemption.
        hit_rate: share of the prompts' tokens that were not computed because they were in memory.
    """

    seconds: float
    plan_seconds: float
    execute_seconds: float | None
    token_ids: list[list[list[int]]]
    iterations: int
    prefill_tokens: int
    hit_rate: float
    preemptions: int
    settings: dict[str, int] = field(default_factory=dict)


Check = Callable[[], None]


def descending(vocabulary: int, most: int) -> Workload:
    """Short requests of which fewer and fewer run, from `most` down to one.

    Its iterations have all numbers of rows, nearly: whatever is made at a number's first use, as
    CUDA graphs are, is there afterwards.
    """
    rng = np.random.default_rng(5)
    prompts = rng.integers(10, vocabulary, (most, 8)).tolist()
    return Workload("warm-up", prompts, [2 + place * 96 // most for place in range(most)])


def make_table(workload: Workload) -> RequestTable:
    """The workload's requests: fixed lengths, nothing else ends an answer."""
    lengths = sorted(set(workload.outputs))
    params = [
        RequestParams(
            max_tokens=length, n=workload.n, temperature=workload.temperature, ignore_eos=True
        )
        for length in lengths
    ]
    count = len(workload.prompts)
    outputs = np.array(workload.outputs, dtype=np.int32)
    return RequestTable(
        tokens=np.concatenate([np.array(p, dtype=np.int32) for p in workload.prompts]),
        offsets=np.cumsum([0, *map(len, workload.prompts)]).astype(np.int64),
        params=params,
        params_index=np.searchsorted(lengths, outputs).astype(np.int32),
        max_new_tokens=outputs,
        expected_new_tokens=outputs,
        seeds=np.zeros(count, dtype=np.int64),
        has_seed=np.zeros(count, dtype=np.bool_),
        line=np.arange(count, dtype=np.int64),
    )


def run_policy(
    engine: Engine, policy: Policy, workload: Workload, check: Check, token_budget: int | None
) -> Outcome:
    """Run a workload, in the order the policy wants it.

    Args:
        check: called in every iteration; it may raise to end the run.
        token_budget: of a baseline; None: the engine's.
    """
    table = make_table(workload)
    if policy.sharing is None:
        budget = token_budget or engine.machine.token_budget
        return _run_baseline(engine, policy, table, check, budget)
    engine.options = replace(engine.options, sharing=policy.sharing, order=policy.order)
    return _run_planned(engine, table, check)


def _run_planned(engine: Engine, table: RequestTable, check: Check) -> Outcome:
    began = time.perf_counter()
    run = engine.run(table)
    planned = time.perf_counter()
    completions: list[Completion] = []
    for finished in run:
        completions += finished
        check()
    seconds = time.perf_counter() - began
    failed = next((c.error for c in completions if c.error is not None), None)
    if failed is not None:
        raise failed
    completions.sort(key=lambda completion: completion.request_index)
    stats = run.stats
    return Outcome(
        seconds=seconds,
        plan_seconds=planned - began,
        execute_seconds=None,
        token_ids=[[list(choice.token_ids) for choice in c.choices] for c in completions],
        iterations=stats.iterations,
        prefill_tokens=stats.prompt_tokens_computed,
        hit_rate=1 - stats.prompt_tokens_computed / max(run.plan.prompt_tokens, 1),
        preemptions=stats.preemptions,
        settings={"token_budget": engine.machine.token_budget},
    )


def _run_baseline(
    engine: Engine, policy: Policy, table: RequestTable, check: Check, budget: int
) -> Outcome:
    began = time.perf_counter()
    plan = unshared_plan(table)
    limits = Limits(budget, policy.max_requests, engine.machine.num_blocks, BLOCK_SIZE)
    ready = time.perf_counter()
    run = run_lru(table, plan, engine.executor(table, plan), limits, check=check)
    choices = iter(run.token_ids)
    return Outcome(
        seconds=run.seconds,
        plan_seconds=ready - began,
        execute_seconds=run.execute_seconds,
        token_ids=[[next(choices) for _ in range(n)] for n in table.choices.tolist()],
        iterations=run.stats.iterations,
        prefill_tokens=run.stats.prefill_tokens,
        hit_rate=run.stats.hit_rate,
        preemptions=run.stats.preemptions,
        settings={"token_budget": budget, "max_requests": policy.max_requests},
    )


def summary(outcome: Outcome) -> dict[str, Any]:
    """The outcome's figures, for a record."""
    figures = {
        "seconds": outcome.seconds,
        "plan_seconds": outcome.plan_seconds,
        "iterations": outcome.iterations,
        "prefill_tokens": outcome.prefill_tokens,
        "hit_rate": outcome.hit_rate,
        "preemptions": outcome.preemptions,
        "settings": outcome.settings,
    }
    if outcome.execute_seconds is not None:
        figures["execute_seconds"] = outcome.execute_seconds
    return figures
