"""Requests of one adapter as neighbours: the tree is put in order adapter by adapter.

So the rows of an adapter are one slice of every batch, and it is in memory for one stretch of the
run. No prefix is shared between adapters, so a segment has users of one alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shoal.planner.tree import Arrangement, Tree
from shoal.types import Int64Array


def by_adapter(
    tree: Tree, arrange: Callable[[Tree], Arrangement], first: Int64Array | None = None
) -> Arrangement:
    """The arrangements of the adapters' parts one after another.

    The adapter that expects the most output per prompt token to compute goes first, as groups do.

    Args:
        arrange: puts one part in order.
        first: int64 [N]; the adapter with the lowest of these goes first instead.
    """
    assert tree.adapter is not None
    segments, requests = _parts(tree)
    parts = [_part(tree, *each) for each in zip(segments, requests, strict=True)]
    keys = [
        _ratio(part) if first is None else int(first[some].min())
        for part, some in zip(parts, requests, strict=True)
    ]
    order = sorted(range(len(parts)), key=lambda part: (keys[part], part))
    return _one_after_another(
        [arrange(parts[part]) for part in order],
        [segments[part] for part in order],
        [requests[part] for part in order],
        [int(parts[part].choices.sum()) for part in order],
    )


def _parts(tree: Tree) -> tuple[list[Int64Array], list[Int64Array]]:
    """The segments and the requests of each adapter, ascending."""
    assert tree.adapter is not None
    numbers, of_request = np.unique(tree.adapter, return_inverse=True)
    of_segment = tree.highest(of_request.astype(np.int64))

    def split(of: Int64Array) -> list[Int64Array]:
        in_order = np.argsort(of, kind="stable")
        return np.split(in_order, np.cumsum(np.bincount(of, minlength=len(numbers)))[:-1])

    return split(of_segment), split(of_request.astype(np.int64))


def _part(tree: Tree, segments: Int64Array, requests: Int64Array) -> Tree:
    """The tree of some segments and of all requests behind them."""

    def number(segment: Int64Array) -> Int64Array:
        return np.where(segment < 0, -1, np.searchsorted(segments, segment))

    return Tree(
        parent=number(tree.parent[segments]),
        level=tree.level[segments],
        start=tree.start[segments],
        end=tree.end[segments],
        users=tree.users[segments],
        leaf=number(tree.leaf[requests]),
        prompt=tree.prompt[requests],
        choices=tree.choices[requests],
        output=tree.output[requests],
        index=tree.index[requests],
        whole=tree.whole[requests],
        scored=tree.scored[requests],
        samples=tree.samples[requests],
        tie=tree.tie[np.concatenate([segments, len(tree.parent) + requests])],
    )


def _ratio(part: Tree) -> float:
    """Minus expected output per prompt token to compute."""
    output = int((part.output * part.choices).sum())
    prefill = int(part.length.sum()) + int((part.own * part.choices).sum())
    return -output / max(prefill, 1)


def _one_after_another(
    arranged: list[Arrangement],
    segments: list[Int64Array],
    requests: list[Int64Array],
    sizes: list[int],
) -> Arrangement:
    """`sizes`: sequences of each."""
    num_requests = sum(map(len, requests))
    leaf = np.empty(num_requests, dtype=np.int64)
    request_first = np.empty(num_requests, dtype=np.int64)
    source, parent, first, last = ([np.zeros(0, dtype=np.int64)] for _ in range(4))
    copies = sequences = 0
    for each, of, some, size in zip(arranged, segments, requests, sizes, strict=True):
        source.append(of[each.source])
        parent.append(np.where(each.parent < 0, -1, each.parent + copies))
        first.append(each.first + sequences)
        last.append(each.last + sequences)
        leaf[some] = np.where(each.leaf < 0, -1, each.leaf + copies)
        request_first[some] = each.request_first + sequences
        copies += len(each.source)
        sequences += size
    return Arrangement(
        np.concatenate(source),
        np.concatenate(parent),
        np.concatenate(first),
        np.concatenate(last),
        leaf,
        request_first,
    )
