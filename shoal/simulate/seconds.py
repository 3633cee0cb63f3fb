"""How long the parts of a job take, as numbers that add up: what a job is divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planner.tree import Tree
from shoal.planner.work_counts import WorkCounts, request_work, segment_work, windows_of
from shoal.types import Int64Array, RequestTable

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
    windows = windows_of(machine.costs)
    requests_, segments = request_work(tree, windows), segment_work(tree, windows)
    both = WorkCounts(np.concatenate([requests_.counts, segments.counts], axis=1))
    seconds = _seconds(both, machine)
    requests = len(tree.leaf)
    each = seconds[:requests] / tree.choices
    return PartSeconds(np.repeat(each, tree.choices), seconds[requests:])


def _seconds(work: WorkCounts, machine: Machine) -> FloatArray:
    """Of each part, float64 [M]."""
    costs = machine.costs
    tokens, heads = work.counts[:2].astype(np.float64)
    reads = work.read_tokens(costs)
    flops, bandwidth = costs.flops_per_second, costs.bytes_per_second
    fill = tokens / machine.token_budget
    if fill.sum() < reads.sum() / machine.kv_tokens:
        fill = reads / machine.kv_tokens  # iterations, as parts of one
    linear = tokens * (costs.flops_per_token / flops)
    weights = fill * (costs.weight_bytes / bandwidth)
    attention = np.maximum(
        work.attention_flops(costs) / flops, work.read_bytes(costs) / bandwidth
    ).sum(axis=0)
    seconds: FloatArray = (
        (linear if linear.sum() >= weights.sum() else weights)
        + attention
        + heads * (costs.head_flops / flops)
        + fill * costs.iteration_seconds
    )
    return seconds


@dataclass(frozen=True)
class SplitPoints:
    """The points at which a run of sequences can be cut in two, requests kept whole.

    Attributes:
        sequence: int64 [P], ascending; the second part begins at that sequence.
        before, after: float64 [P], seconds of each part; what both share is in both.
        again: float64 [P], seconds of what a cut makes to be computed twice.
    """

    sequence: Int64Array
    before: FloatArray
    after: FloatArray
    again: FloatArray


def cuts(
    plan: Plan, seconds: PartSeconds, first: int, last: int, *, under_way: bool = False
) -> SplitPoints:
    """The cuts of the sequences [first, last) of a plan.

    Args:
        under_way: the sequences before `first` have begun on the device that keeps the first part,
            so that it has their segments already.
    """
    size = last - first
    some = np.flatnonzero((plan.segment_first < last) & (plan.segment_last > first))
    begin = plan.segment_first[some].astype(np.int64) - first
    end = np.minimum(plan.segment_last[some].astype(np.int64) - first, size)
    cost = seconds.segment[some]
    known = begin < 0 if under_way else np.zeros(len(some), dtype=np.bool_)
    own = np.append(0.0, np.cumsum(seconds.sequence[first:last]))
    begun, ended = np.zeros(size + 1), np.zeros(size + 1)
    np.add.at(begun, np.maximum(begin[~known], 0) + 1, cost[~known])
    np.add.at(ended, end, cost)
    before = own + np.cumsum(begun)
    after = own[-1] - own + cost.sum() - np.cumsum(ended)
    spanning = np.zeros(size + 1)
    np.add.at(spanning, np.maximum(begin, -1) + 1, cost)
    again = np.cumsum(spanning) - np.cumsum(ended)
    sequence = 1 + np.flatnonzero(plan.sequence_choice[first + 1 : last] == 0)
    if under_way and size and plan.sequence_choice[first] == 0:
        sequence = np.append(0, sequence)  # all of it may go
    return SplitPoints(sequence + first, before[sequence], after[sequence], again[sequence])
