"""From requests to a plan: build the forest, choose segments, put sequences in order."""

from __future__ import annotations

import numpy as np

from shoal.config import Order, Sharing
from shoal.costs import Costs
from shoal.errors import InternalError
from shoal.planner.folding import FoldCost
from shoal.planner.forest import Forest, build_forest, split_by_level
from shoal.planner.order import arrange
from shoal.planner.plan import Plan
from shoal.planner.sharing import Segments, choose_segments
from shoal.planner.tree import Arrangement, Tree, depth_first
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_GOLDEN = (5**0.5 - 1) / 2


def make_plan(
    table: RequestTable,
    *,
    sharing: Sharing = Sharing.forest,
    order: Order = Order.ratio,
    exclusive: BoolArray | None = None,
    block_size: int = 16,
    capacity_blocks: int | None = None,
    costs: Costs | None = None,
    fold_cost: FoldCost | None = None,
    forest: Forest | None = None,
) -> Plan:
    """Plan a run of all requests of the table. Deterministic.

    Args:
        exclusive: bool [N], requests that compute their whole prompt themselves; None: none.
        block_size: tokens per KV block.
        capacity_blocks: KV blocks in the pool. A segment takes whole blocks, so a long sequence
            may fit by itself but not behind its segments: such requests become exclusive.
            None: no limit.
        costs: what the model costs on the machine: decides which segments are folded, and weighs
            the work for `Order.blend`. None: segments cost nothing, and none is folded.
        fold_cost: what a segment costs beyond its tokens, instead of what `costs` says.
        forest: the forest of this table and `exclusive` when there is one already.

    Raises:
        InternalError: a request does not fit the pool even alone. Callers refuse those first.
    """
    if exclusive is None:
        exclusive = np.zeros(len(table), dtype=np.bool_)
    if fold_cost is None and costs is not None:
        fold_cost = FoldCost.of(costs)
    while True:
        if forest is None:
            forest = build_forest(table.tokens, table.offsets, table.choices, exclusive)
        segments = choose_segments(forest, sharing, fold_cost, table.expected_new_tokens)
        if capacity_blocks is None:
            break
        too_large = _blocks_needed(table, segments, block_size) > capacity_blocks
        if not too_large.any():
            break
        hopeless = np.flatnonzero(too_large & (segments.request_segment < 0))
        if len(hopeless):
            raise InternalError(
                f"request {hopeless[0]} needs more KV blocks than the pool's {capacity_blocks}; "
                "it should have been refused before planning."
            )
        exclusive = exclusive | too_large
        forest = None
    tree = Tree.of_segments(table, forest, segments)
    capacity = None if capacity_blocks is None else capacity_blocks * block_size
    places = arrange(tree, order, costs, capacity)
    request = forest.request[segments.node]
    return _assemble(table, tree, places, request, sharing, order)


def _blocks_needed(table: RequestTable, segments: Segments, block_size: int) -> Int64Array:
    """KV blocks that a sequence of each request holds at its end, int64 [N].

    The last generated token is never fed back, so it needs no KV.
    """
    path_blocks = np.append(-(-(segments.end - segments.start) // block_size), 0)
    for level in split_by_level(segments.level)[1:]:
        path_blocks[level] += path_blocks[segments.parent[level]]
    own = table.lengths - np.append(segments.end, 0)[segments.request_segment]
    own_blocks = -(-(own + table.max_new_tokens - 1) // block_size)
    needed: Int64Array = path_blocks[segments.request_segment] + own_blocks
    return needed


def _assemble(
    table: RequestTable,
    tree: Tree,
    places: Arrangement,
    segment_request: Int64Array,
    sharing: Sharing,
    order: Order,
) -> Plan:
    """The plan of an arrangement.

    Args:
        tree: its requests' `index` are those of the table.
        segment_request: int64 [S], a request that begins with each segment of the tree.
    """
    by_first = np.argsort(places.request_first)
    choices = tree.choices[by_first]
    request = np.repeat(by_first, choices)
    choice = np.arange(len(request)) - np.repeat(places.request_first[by_first], choices)
    prompt_tokens = int((tree.prompt * tree.choices).sum())
    length = tree.length[places.source]
    return Plan(
        segment_parent=_int32(places.parent),
        segment_start=_int32(tree.start[places.source]),
        segment_length=_int32(length),
        segment_request=_int32(segment_request[places.source]),
        segment_first=_int32(places.first),
        segment_last=_int32(places.last),
        sequence_request=_int32(tree.index[request]),
        sequence_choice=_int32(choice),
        sequence_segment=_int32(places.leaf[request]),
        sharing=sharing,
        order=order,
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=prompt_tokens
        - int((length * (places.last - places.first - 1)).sum()),
    )


def reordered(
    plan: Plan,
    table: RequestTable,
    order: Order,
    costs: Costs | None = None,
    capacity_tokens: int | None = None,
) -> Plan:
    """The plan in another order; where that leaves a choice, in its own.

    Args:
        plan: one that has not been cut into pieces, so not one ordered by `blend`.
        costs, capacity_tokens: see `shoal.planner.order.arrange`.
    """
    tree = Tree.of_plan(table, plan)
    places = arrange(tree, order, costs, capacity_tokens)
    request = plan.segment_request.astype(np.int64)
    return _assemble(table, tree, places, request, plan.sharing, order)


def spread(plan: Plan, table: RequestTable) -> Plan:
    """The plan with everything that has the same parent in an order whose every stretch is a sample
    of all of it, evenly taken: not to be run, but to be cut into parts that are alike.

    By multiples of the golden ratio, modulo 1.

    Args:
        plan: as for `reordered`.
    """
    tree = Tree.of_plan(table, plan)
    key = np.asarray(np.arange(len(tree.above)) * _GOLDEN % 1.0, dtype=np.float64)
    places = depth_first(tree, key)
    request = plan.segment_request.astype(np.int64)
    return _assemble(table, tree, places, request, plan.sharing, plan.order)


def _int32(values: Int64Array) -> Int32Array:
    return values.astype(np.int32)
