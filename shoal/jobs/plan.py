"""A batch file planned but not run: what `shoal plan` explains. Needs no weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.config import EngineOptions
from shoal.engine.calibrate import DEFAULT_TOKEN_BUDGET, remembered_budget
from shoal.engine.description import ModelDescription
from shoal.engine.engine import scored_requests
from shoal.errors import InvalidRequestError
from shoal.jobs.execute import kv_capacity_tokens
from shoal.jobs.reader import read_job
from shoal.planner import Plan, Savings, build_forest, expected_peak_kv, make_plan, savings
from shoal.scheduler import BLOCK_SIZE
from shoal.types import RequestTable


@dataclass(frozen=True)
class PlannedJob:
    """The plan a run of the file would follow.

    Attributes:
        table: the requests that can run.
        savings: prompt tokens each sharing mode would save.
        rejected: (line from 1, error) of the lines that cannot run, in no order.
        kv_peak_tokens, kv_capacity_tokens: expected at most, and what the pool holds.
    """

    description: ModelDescription
    table: RequestTable
    plan: Plan
    savings: Savings
    rejected: list[tuple[int, InvalidRequestError]]
    kv_peak_tokens: int
    kv_capacity_tokens: int
    read_seconds: float
    plan_seconds: float


def plan_job(
    path: Path, model: str | None, options: EngineOptions, served_names: Sequence[str] = ()
) -> PlannedJob:
    """Read and plan a batch file as `run_job` would.

    Raises:
        JobError: the file cannot be read.
        ModelError: config or tokenizer cannot be used.
    """
    description = ModelDescription.load(model, options)
    capacity = kv_capacity_tokens(description, options)
    rejected: list[tuple[int, InvalidRequestError]] = []
    began = time.perf_counter()
    job = read_job(
        path,
        description,
        capacity_tokens=capacity,
        names=served_names,
        reject=lambda line, _, error: rejected.append((line + 1, error)),
    )
    job.index.close()
    read = time.perf_counter()
    table, exclusive = job.table, scored_requests(job.table)
    forest = build_forest(table.tokens, table.offsets, table.choices, exclusive)
    plan = make_plan(
        table,
        sharing=options.sharing,
        order=options.order,
        exclusive=exclusive,
        block_size=BLOCK_SIZE,
        capacity_blocks=capacity // BLOCK_SIZE,
        forest=forest,
    )
    saved = savings(forest)
    planned = time.perf_counter()
    budget = options.token_budget or remembered_budget(description) or DEFAULT_TOKEN_BUDGET
    peak = expected_peak_kv(plan, table, token_budget=budget, capacity_tokens=capacity)
    return PlannedJob(
        description, table, plan, saved, rejected, peak, capacity, read - began, planned - read
    )
