"""The order that gives every iteration the job's own mix of compute and memory traffic.

After BlendServe (arXiv 2411.16102, ASPLOS 2026): the density of a subtree is its compute time over
its memory time, sharing counted once. Siblings sorted by density are scanned from both ends at
once, the KV memory divided so that M_L·rho_L + M_R·rho_R = M·rho for the density rho of all.

A scheduler that admits along one list keeps what runs in the proportions of the list, each weighed
with the KV it holds times how long: Little's law. That product is what the memory time counts. So
the two scans are one list in which, at every place, what stands before has density rho: compute
time beyond rho times memory time, gained by the scan from the left, is spent by the scan from the
right. Both scans are sorted by what they have gained or spent so far and merged, without a loop.

A subtree too large for its share of the memory would leave no room for its counterpart. It is cut
into pieces that take turns with others. What two pieces share is then computed for both; of all
that sharing saves, at least `_KEPT` stays saved.
"""

from __future__ import annotations

import numpy as np

from shoal.costs import Costs
from shoal.planner.rearrange_pieces import Line, piece_starts
from shoal.planner.tree import Arrangement, Tree, depth_first
from shoal.planner.work_counts import (
    FloatArray,
    WorkCounts,
    request_work,
    segment_work,
    windows_of,
)
from shoal.types import BoolArray, Int64Array

_KEPT = 0.99
"""Share of the tokens saved by sharing that cutting leaves."""
_PIECES_AT_ONCE = 16
"""A piece should take no more than this part of the KV memory; of the job's, if that is less."""
_BALANCED = 0.1
"""A group whose density differs from the job's by this share or less needs no counterpart."""


def blend(tree: Tree, costs: Costs | None, capacity_tokens: int | None) -> Arrangement:
    """Blend the children at every branch, then cut what is too large and blend the pieces.

    Args:
        costs: None: tokens to compute against tokens of KV to read.
        capacity_tokens: KV tokens in the pool; None: more than the job needs.
    """
    windows = windows_of(costs)
    requests, segments = request_work(tree, windows), segment_work(tree, windows)
    whole = depth_first(tree, _sibling_key(tree, requests, segments, costs))
    if len(tree.leaf) == 0:
        return whole
    line = Line.of(tree, whole)
    starts = _cut(line, requests, segments, costs, capacity_tokens)
    if (line.cut_tokens[starts] == 0).all():
        return whole
    work, none = line.work(starts, requests, segments), np.zeros(len(starts), dtype=np.int64)
    key = alternating(work, work.summed(none, 1), none, np.arange(len(starts)), costs)
    return line.arranged(starts, np.argsort(key, kind="stable"))


def alternating(
    work: WorkCounts, total: WorkCounts, above: Int64Array, tie: Int64Array, costs: Costs | None
) -> FloatArray:
    """Sort keys, float64 [M], with which parts of much compute and of much memory alternate.

    A part's key is how much its scan has gained or spent when half of it is done.

    Args:
        work: of each part.
        total: of all parts with the same `above`.
        above: int64 [M]; parts alternate with those that have the same.
        tie: int64 [M], sorts parts of equal density and compute time.
    """
    compute, memory = work.compute_seconds(costs), work.memory_seconds(costs)
    all_compute = np.maximum(total.compute_seconds(costs)[above], 1e-300)
    all_memory = np.maximum(total.memory_seconds(costs)[above], 1e-300)
    gain = compute / all_compute - memory / all_memory
    spends = gain < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(memory > 0, compute / memory, np.inf)
    order = np.lexsort((tie, compute, np.where(spends, density, -density), spends, above))
    size = np.abs(gain)[order]
    heads = np.flatnonzero(
        np.append(True, (np.diff(above[order]) != 0) | (np.diff(spends[order]) != 0))
    )
    before = np.cumsum(size) - size
    run = np.cumsum(np.bincount(heads, minlength=len(order))) - 1
    key = np.empty(len(order))
    key[order] = before - before[heads][run] + size / 2
    return key


def _sibling_key(
    tree: Tree, requests: WorkCounts, segments: WorkCounts, costs: Costs | None
) -> FloatArray:
    """Keys of all children, float64 [S + N], that blend them with their siblings."""
    if len(tree.leaf) == 0:
        return np.zeros(0)
    columns = zip(segments.counts, requests.counts, strict=True)
    subtree = np.stack([tree.sums(of_segment, of_request) for of_segment, of_request in columns])
    top = tree.parent < 0
    everything = subtree[:, top].sum(axis=1) + requests.counts[:, tree.leaf < 0].sum(axis=1)
    below = np.concatenate([subtree - segments.counts, everything[:, None]], axis=1)
    children = WorkCounts(np.concatenate([subtree, requests.counts], axis=1))
    return alternating(children, WorkCounts(below), tree.above, tree.tie, costs)


def _cut(
    line: Line,
    requests: WorkCounts,
    segments: WorkCounts,
    costs: Costs | None,
    capacity_tokens: int | None,
) -> Int64Array:
    """Where pieces begin: the groups, and inside those that are large and out of balance."""
    tree, cut_tokens = line.tree, line.cut_tokens
    held = ((tree.own + tree.output) * tree.choices)[line.request]
    starting = line.first[~line.everywhere]
    np.add.at(held, starting, tree.length[~line.everywhere])
    memory = int(held.sum()) if capacity_tokens is None else min(capacity_tokens, int(held.sum()))
    groups = np.flatnonzero(cut_tokens == 0)
    work = line.work(groups, requests, segments)
    unbalanced = _unbalanced(work, costs)
    saved = int((tree.length * (tree.users - 1)).sum())
    return piece_starts(
        cut_tokens,
        held,
        max(1, memory // _PIECES_AT_ONCE),
        int((1 - _KEPT) * saved),
        np.repeat(unbalanced, np.diff(np.append(groups, len(held)))),
    )


def _unbalanced(work: WorkCounts, costs: Costs | None) -> BoolArray:
    """Groups whose density is not about that of all, bool [groups]."""
    none = np.zeros(work.counts.shape[1], dtype=np.int64)
    total = work.summed(none, 1)
    compute = work.compute_seconds(costs) * total.memory_seconds(costs)
    memory = work.memory_seconds(costs) * total.compute_seconds(costs)
    unbalanced: BoolArray = np.abs(compute - memory) > _BALANCED * memory
    return unbalanced
