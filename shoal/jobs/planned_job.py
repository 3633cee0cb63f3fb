"""A batch file planned but not run: what `shoal plan` explains. Needs no weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.answers.detokenize import Detokenizer
from shoal.config import EngineOptions, Order
from shoal.devices import Dealt, deal
from shoal.diagnose import Diagnoses, diagnose
from shoal.engine.engine import scored_requests
from shoal.errors import InvalidRequestError
from shoal.jobs.earlier_results import generated_lengths
from shoal.jobs.reader import read_job
from shoal.jobs.token_input import check_input_options, read_tokens
from shoal.machine.calibrate import costs_of, token_budget_of
from shoal.machine.calibration_cache import remembered
from shoal.machine.capacity import KVCapacity, planned_capacity
from shoal.model.description import ModelDescription
from shoal.planner import (
    FoldCost,
    Plan,
    Savings,
    build_forest,
    expected_peak_kv,
    make_plan,
    savings,
    spread,
)
from shoal.scheduler import BLOCK_SIZE
from shoal.simulate import in_order
from shoal.types import RequestTable


@dataclass(frozen=True)
class PlannedJob:
    """The plan a run of the file would follow.

    Attributes:
        table: the requests that can run.
        savings: prompt tokens each sharing mode would save.
        rejected: (line from 1, error) of the lines that cannot run, in no order.
        kv_peak_tokens: expected at most, on one device.
        kv_capacity: what the pool holds, and how that is known.
        orders: seconds predicted for each order; empty unless they were compared.
        dealt: what each of several devices gets; empty for one.
        diagnoses: what in the prompts and limits makes the job dearer than it need be.
    """

    description: ModelDescription
    table: RequestTable
    plan: Plan
    savings: Savings
    rejected: list[tuple[int, InvalidRequestError]]
    kv_peak_tokens: int
    kv_capacity: KVCapacity
    read_seconds: float
    plan_seconds: float
    diagnoses: Diagnoses
    diagnose_seconds: float
    orders: dict[Order, float]
    dealt: list[Dealt]


def plan_job(
    path: Path,
    model: str | None,
    options: EngineOptions,
    served_names: Sequence[str] = (),
    results: Path | None = None,
    max_tokens: int | None = None,
) -> PlannedJob:
    """Read and plan a batch file as `run_job` would, or a file of token ids.

    Args:
        results: output of an earlier run, of this file or of a part of it, from which to judge
            the limits on output.
        max_tokens: what each request of a file of token ids may generate; None for a batch file.

    Raises:
        JobError: the file cannot be read.
        ModelError: config or tokenizer cannot be used.
        OptionError: `max_tokens` is missing or too much, or another option does not apply.
    """
    check_input_options(path, max_tokens=max_tokens, served_names=served_names, results=results)
    description = ModelDescription.load(model, options)
    kv_capacity = planned_capacity(description, options)
    capacity = kv_capacity.tokens
    rejected: list[tuple[int, InvalidRequestError]] = []
    began = time.perf_counter()
    generated = None
    if max_tokens is not None:
        table = read_tokens(path, description, capacity_tokens=capacity, max_tokens=max_tokens)
    else:
        job = read_job(
            path,
            description,
            capacity_tokens=capacity,
            names=served_names,
            reject=lambda line, _, error: rejected.append((line + 1, error)),
        )
        try:
            table = job.table
            generated = None if results is None else generated_lengths(results, job.index, table)
        finally:
            job.index.close()
    read = time.perf_counter()
    calibration = remembered(description)
    costs = costs_of(description, calibration)
    exclusive = scored_requests(table)
    forest = build_forest(table.tokens, table.offsets, table.choices, exclusive)
    plan = make_plan(
        table,
        sharing=options.sharing,
        exclusive=exclusive,
        block_size=BLOCK_SIZE,
        capacity_blocks=capacity // BLOCK_SIZE,
        costs=costs,
        forest=forest,
    )
    budget = options.token_budget or token_budget_of(calibration)
    blocks = capacity // BLOCK_SIZE
    dealt: list[Dealt] = []
    if options.devices > 1:
        dealt = deal(table, spread(plan, table), costs, budget, capacity, options.devices)
    plan, orders = in_order(table, plan, options.order, costs, budget, blocks)
    saved = savings(forest, FoldCost.of(costs), table.expected_new_tokens)
    planned = time.perf_counter()
    peak = max(
        expected_peak_kv(part, table, token_budget=budget, capacity_tokens=capacity)
        for part in ([share.plan for share in dealt] or [plan])
    )
    diagnosing = time.perf_counter()
    diagnoses = diagnose(
        table,
        plan,
        forest,
        Detokenizer(description.tokenizer).token_bytes,
        exclusive=exclusive,
        capacity_tokens=capacity,
        generated=generated,
    )
    return PlannedJob(
        description,
        table,
        plan,
        saved,
        rejected,
        peak,
        kv_capacity,
        read_seconds=read - began,
        plan_seconds=planned - read,
        diagnoses=diagnoses,
        diagnose_seconds=time.perf_counter() - diagnosing,
        orders=orders,
        dealt=dealt,
    )
