"""A batch file planned but not run: what `shoal plan` explains. Needs no weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.answers.detokenize import Detokenizer
from shoal.config import EngineOptions, Order
from shoal.costs import Machine
from shoal.diagnose import Diagnoses, diagnose
from shoal.errors import InvalidRequestError, OptionError
from shoal.jobs.job_kind import kind_of_file, refuse_answers_only
from shoal.jobs.spec import check_forms
from shoal.machine.capacity import KVCapacity, planned_capacity, planned_machine
from shoal.model.description import ModelDescription, Texts
from shoal.planner import FoldCost, Forest, Plan, Savings, forest_of, savings
from shoal.planning import AdapterUse, RunPlan, Share, adapter_use, divide_job, plan_run
from shoal.requests.reader import read_job
from shoal.requests.schema_file import read_schema
from shoal.requests.scored_choices import read_choices
from shoal.requests.token_input import check_input_options, read_tokens
from shoal.results.earlier_results import generated_lengths
from shoal.types import Int64Array, PlanFigures, RequestTable


@dataclass(frozen=True)
class PlannedJob:
    """The plan a run of the file would follow.

    Attributes:
        table: the requests that can run.
        machine: what the plan is made for, each of several devices.
        runs: what each device runs.
        whole: what is shared, in the order of the run; of several devices, before it is divided.
        savings: prompt tokens each sharing mode would save, with those that need no computing.
        rejected: (line from 1, error) of the lines that cannot run, in no order.
        kv_capacity: what the pool holds, and how that is known.
        shares: what each of several devices gets; empty for one.
        adapters: what there is of them; None: none was given.
        diagnoses: what in the prompts and limits makes the job dearer than it need be.
    """

    description: ModelDescription
    table: RequestTable
    machine: Machine
    runs: list[RunPlan]
    whole: Plan
    savings: Savings
    rejected: list[tuple[int, InvalidRequestError]]
    kv_capacity: KVCapacity
    read_seconds: float
    plan_seconds: float
    diagnoses: Diagnoses
    diagnose_seconds: float
    shares: list[Share]
    adapters: AdapterUse | None = None

    @property
    def figures(self) -> PlanFigures:
        """The plan in numbers, as in the summary of a run."""
        return PlanFigures.together([run.figures for run in self.runs])

    @property
    def orders(self) -> dict[Order, float]:
        """Seconds predicted for each order on one device; empty unless they were compared."""
        return self.runs[0].order_seconds if len(self.runs) == 1 else {}


def plan_job(
    path: Path,
    model: str | None,
    options: EngineOptions,
    served_names: Sequence[str] = (),
    results: Path | None = None,
    max_tokens: int | None = None,
    schema: Path | None = None,
    choices: Sequence[str] | Path | None = None,
) -> PlannedJob:
    """Read and plan a batch file as `run_job` would, or a file of token ids.

    Args:
        results: output of an earlier run, of this file or of a part of it, from which to judge
            the limits on output.
        max_tokens: what each request of a file of token ids may generate; None for a batch file.
        schema, choices: see `JobSpec`; for a batch file alone.

    Raises:
        JobError: the file cannot be read.
        ModelError: config or tokenizer cannot be used.
        OptionError: `max_tokens` is missing or too much, or another option does not apply.
    """
    check_input_options(
        path,
        max_tokens=max_tokens,
        served_names=served_names,
        results=results,
        schema=schema,
        choices=choices,
    )
    check_forms(schema, choices)
    if options.ray is not None:
        raise OptionError(
            "ray: a plan starts nothing, so it is not known how many engines the cluster has room "
            "for. Give devices N to see the shares of N engines, and leave ray out."
        )
    if options.lora and max_tokens is not None:
        raise OptionError(f"--lora is for batch files; the rows of {path.name} name no adapter.")
    texts = Texts.needed if max_tokens is None else Texts.wanted
    asked = kind_of_file(path, options.pooling_type) if max_tokens is None else None
    refuse_answers_only(asked, options, schema, results)
    description = ModelDescription.load(model, options, texts=texts, asked=asked)
    kv_capacity = planned_capacity(description, options)
    began = time.perf_counter()
    requests = _read(
        path, description, kv_capacity.tokens, served_names, results, max_tokens, schema, choices
    )
    table = requests.table
    read = time.perf_counter()
    machine = planned_machine(description, options, kv_capacity)
    forest = forest_of(table)
    runs, whole, shares = _planned(table, options, machine, forest)
    targets = int(((table.lengths - table.computed_lengths) * table.choices).sum())
    fold_cost = FoldCost.of(machine.costs)
    saved = savings(forest, fold_cost, table.expected_output, never_computed=targets)
    planned = time.perf_counter()
    diagnoses = diagnose(
        table,
        whole,
        forest,
        Detokenizer(description.tokenizer).token_bytes,
        capacity_tokens=kv_capacity.tokens,
        generated=requests.generated,
    )
    return PlannedJob(
        description,
        table,
        machine,
        runs,
        whole,
        saved,
        requests.rejected,
        kv_capacity,
        read_seconds=read - began,
        plan_seconds=planned - read,
        diagnoses=diagnoses,
        diagnose_seconds=time.perf_counter() - planned,
        shares=shares,
        adapters=adapter_use(table, machine, saved, len(description.adapters)),
    )


@dataclass(frozen=True)
class _Requests:
    """What was read: `generated` are the lengths of earlier answers, where there are some."""

    table: RequestTable
    rejected: list[tuple[int, InvalidRequestError]] = field(default_factory=list)
    generated: Int64Array | None = None


def _read(
    path: Path,
    description: ModelDescription,
    capacity_tokens: int,
    served_names: Sequence[str],
    results: Path | None,
    max_tokens: int | None,
    schema: Path | None,
    choices: Sequence[str] | Path | None,
) -> _Requests:
    if max_tokens is not None:
        limits = {"capacity_tokens": capacity_tokens, "max_tokens": max_tokens}
        return _Requests(read_tokens(path, description, **limits))
    rejected: list[tuple[int, InvalidRequestError]] = []
    job = read_job(
        path,
        description,
        capacity_tokens=capacity_tokens,
        names=served_names,
        schema=read_schema(schema, description),
        choices=read_choices(choices),
        reject=lambda line, _, error: rejected.append((line + 1, error)),
    )
    try:
        generated = None if results is None else generated_lengths(results, job.index, job.table)
    finally:
        job.index.close()
    return _Requests(job.table, rejected, generated)


def _planned(
    table: RequestTable, options: EngineOptions, machine: Machine, forest: Forest
) -> tuple[list[RunPlan], Plan, list[Share]]:
    """What each device runs, the plan of the whole, and how it is divided among several."""
    if options.devices == 1:
        run = plan_run(table, options, machine, forest)
        return [run], run.plan, []
    division = divide_job(table, options, machine, options.devices, forest)
    return division.run_plans(table, options, machine), division.whole, division.shares
