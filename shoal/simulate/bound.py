"""The makespan that no schedule of a plan can undercut."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planner.tree import Tree
from shoal.planner.work_counts import request_work, segment_work, windows_of
from shoal.types import Int64Array, RequestTable


@dataclass(frozen=True)
class LowerBound:
    """Seconds that the work of a plan takes at least.

    Attributes:
        compute: its arithmetic at full rate, each shared token computed once.
        memory: reading KV in every decode, a segment's once per iteration however many use it,
            and the weights in the fewest iterations there can be.
        overhead: what these iterations take beyond their work.
        iterations: the fewest there can be.
    """

    compute: float
    memory: float
    overhead: float
    iterations: int

    @property
    def seconds(self) -> float:
        """max(compute, memory) + overhead."""
        return max(self.compute, self.memory) + self.overhead


def lower_bound(
    table: RequestTable,
    plan: Plan,
    machine: Machine,
    true_lengths: Int64Array | None = None,
) -> LowerBound:
    """A bound on the time of any run of a plan's segments and sequences, in any order.

    The fewest iterations are the most of: tokens over the token budget; KV bytes read by decodes
    over the pool's, because what an iteration reads it holds; the longest answer. Layers with a
    window are counted for what they see.

    Args:
        true_lengths: as for `simulate`.
    """
    if plan.num_sequences == 0:
        return LowerBound(0.0, 0.0, 0.0, 0)
    tree = Tree.of_plan(table, plan)
    if true_lengths is not None:
        tree = replace(tree, output=true_lengths[tree.index].astype(np.int64))
    parts = np.zeros(len(tree.leaf), dtype=np.int64), np.zeros(len(tree.parent), dtype=np.int64)
    costs = machine.costs
    windows = windows_of(costs)
    requests, segments = request_work(tree, windows), segment_work(tree, windows)
    work = replace(
        requests,
        counts=requests.summed(parts[0], 1).counts + segments.summed(parts[1], 1).counts,
    )
    tokens, reads = int(work.counts[0, 0]), math.ceil(work.read_tokens(costs)[0])
    longest = int(tree.output.max())
    iterations = max(-(-tokens // machine.token_budget), -(-reads // machine.kv_tokens), longest)
    weights = iterations * costs.weight_bytes / costs.bytes_per_second
    return LowerBound(
        compute=float(work.compute_seconds(costs)[0]),
        memory=float(work.memory_seconds(costs)[0] + weights),
        overhead=iterations * costs.iteration_seconds,
        iterations=iterations,
    )
