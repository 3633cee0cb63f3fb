"""From a request table to what each server is sent, in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.config import EngineOptions, Order, OrderOption
from shoal.costs import Machine
from shoal.endpoints.line_dealer import PlannedLine
from shoal.planner import Plan, make_plan
from shoal.planning import divide_job
from shoal.types import Int64Array, PlanFigures, RequestTable


@dataclass(frozen=True)
class LinePlan:
    """What servers are sent.

    Attributes:
        whole: the plan of all requests.
        figures: of the plans of all servers together.
        shares: lines of each server, in order; a family's number is its own on every server.
    """

    whole: Plan
    figures: PlanFigures
    shares: list[list[PlannedLine]]


def plan_lines(
    table: RequestTable, options: EngineOptions, machine: Machine, servers: int
) -> LinePlan:
    """Plan a table for servers that are alike. Deterministic.

    Prefixes are shared as far as prompts agree, whatever that would cost an engine of ours. A
    family is cut, and its prefix computed on several servers, where `divide_job` says it pays.
    """
    order = Order.input if options.order is OrderOption.input else Order.ratio
    whole = make_plan(table, order=order)
    everything = np.arange(len(table), dtype=np.int64)
    parts = [everything]
    if servers > 1:
        division = divide_job(table, options, machine, servers)
        parts = [_whole_lines(share.requests, table) for share in division.shares]
    plans: list[Plan] = []
    shares: list[list[PlannedLine]] = []
    families = 0
    for requests in parts:
        if not len(requests):
            shares.append([])
            continue
        plan = whole if servers == 1 else make_plan(table.select(requests), order=order)
        lines = _lines(table, plan, requests, families)
        families += len(plan.groups)
        plans.append(plan)
        shares.append(lines)
    return LinePlan(whole, PlanFigures.together([_figures(plan) for plan in plans]), shares)


def _whole_lines(requests: Int64Array, table: RequestTable) -> Int64Array:
    """The requests of lines whose first request is among these, ascending."""
    heads = np.diff(table.line, prepend=-1) != 0
    first = np.flatnonzero(heads)[np.cumsum(heads) - 1]
    return np.flatnonzero(np.isin(first, requests))


def _lines(
    table: RequestTable, plan: Plan, requests: Int64Array, families: int
) -> list[PlannedLine]:
    """The lines of a plan of these requests, where each first occurs; families count from there."""
    request = requests[plan.sequence_request]
    family = np.repeat(np.arange(len(plan.groups) - 1), np.diff(plan.groups)) + families
    own = (table.computed_lengths[request] - plan.shared_length).astype(np.int64)
    np.add.at(own, plan.segment_first, plan.segment_length)
    tokens = own + table.expected_output[request]
    of_line = table.line[request]
    lines, first, index = np.unique(of_line, return_index=True, return_inverse=True)
    prompt = np.bincount(index.reshape(-1), weights=own)
    sums = np.bincount(index.reshape(-1), weights=tokens)
    begin = np.searchsorted(table.line, lines)
    end = np.searchsorted(table.line, lines, side="right")
    return [
        PlannedLine(
            int(lines[at]),
            int(family[first[at]]),
            int(sums[at]),
            int(prompt[at]),
            tuple(range(int(begin[at]), int(end[at]))),
        )
        for at in np.argsort(first)
    ]


def _figures(plan: Plan) -> PlanFigures:
    return PlanFigures(
        prompt_tokens=plan.prompt_tokens,
        computed_prompt_tokens=plan.computed_prompt_tokens,
        segments=plan.num_segments,
        order=plan.order.value,
        digest=plan.digest,
    )
