"""How long the parts of a job take, as numbers that add up: what a job is divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planner.tree import Tree
from shoal.planner.work_counts import WorkCounts, request_work, segment_work
from shoal.types import RequestTable

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PartSeconds:
    """Predicted seconds of a plan's parts, in a run whose iterations are full.

    Attributes:
        sequence: float64 [Q], what each sequence has for itself.
        segment: float64 [S], each shared segment, computed once.
    """

    sequence: FloatArray
    segment: FloatArray

    def of_requests(self, plan: Plan, requests: int) -> FloatArray:
        """Seconds of each of so many requests: their own, and their parts of what they share."""
        users = plan.segment_users
        each = np.append(self.segment / users, 0.0)
        for number, parent in enumerate(plan.segment_parent.tolist()):
            if parent >= 0:  # parents come before their children
                each[number] += each[parent]
        seconds = np.zeros(requests)
        np.add.at(seconds, plan.sequence_request, self.sequence + each[plan.sequence_segment])
        return seconds


def part_seconds(table: RequestTable, plan: Plan, machine: Machine) -> PartSeconds:
    """Predict the parts of a planned job.

    Iterations are as many as fill the token budget, or as the KV read by decodes fills the pool,
    whichever is more (`lower_bound`); a part has its share of them. Weights that are read in less
    time than an iteration's products take cost nothing. The longest answer, which no division
    makes shorter, is left out.
    """
    tree = Tree.of_plan(table, plan)
    both = WorkCounts(
        np.concatenate([request_work(tree).counts, segment_work(tree).counts], axis=1)
    )
    seconds = _seconds(both, machine)
    requests = len(tree.leaf)
    each = seconds[:requests] / tree.choices
    return PartSeconds(np.repeat(each, tree.choices), seconds[requests:])


def _seconds(work: WorkCounts, machine: Machine) -> FloatArray:
    """Of each part, float64 [M]."""
    tokens, heads, pairs, reads = work.counts.astype(np.float64)
    costs = machine.costs
    flops, bandwidth = costs.flops_per_second, costs.bytes_per_second
    fill = tokens / machine.token_budget
    if fill.sum() < reads.sum() / machine.kv_tokens:
        fill = reads / machine.kv_tokens  # iterations, as parts of one
    linear = tokens * (costs.flops_per_token / flops)
    weights = fill * (costs.weight_bytes / bandwidth)
    attention = np.maximum(
        pairs * (costs.attention_flops / flops), reads * (costs.kv_bytes / bandwidth)
    )
    seconds: FloatArray = (
        (linear if linear.sum() >= weights.sum() else weights)
        + attention
        + heads * (costs.head_flops / flops)
        + fill * costs.iteration_seconds
    )
    return seconds
