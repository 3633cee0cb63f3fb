"""From requests to a plan: build the forest, choose segments, put sequences in order."""

from __future__ import annotations

import numpy as np

from shoal.config import Order, Sharing
from shoal.costs import Machine
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
    machine: Machine | None = None,
    forest: Forest | None = None,
) -> Plan:
    """Plan a run of all requests of the table. Deterministic.

    What is planned of a prompt is what the model must see of it (`RequestTable.computed_lengths`).
    Requests that fit the pool by themselves, but not behind their segments, which take whole
    blocks, share nothing.

    Args:
        machine: decides which segments are folded, bounds the memory, and weighs the work for
            `Order.blend`. None: segments cost nothing, none is folded, and memory has no limit.
        forest: what `forest_of` makes of this table, when there is one already.

    Raises:
        InternalError: a request does not fit the pool even alone. Callers refuse those first.
    """
    fold_cost = None if machine is None else FoldCost.of(machine.costs)
    exclusive = np.zeros(len(table), dtype=np.bool_)
    while True:
        if forest is None:
            forest = forest_of(table, exclusive)
        segments = choose_segments(forest, sharing, fold_cost, table.expected_output)
        if machine is None:
            break
        needed = _blocks_needed(table, segments, machine.block_size)
        too_large = (needed > machine.num_blocks) | _too_deep(segments, needed, machine)
        if not too_large.any():
            break
        hopeless = np.flatnonzero(too_large & (segments.request_segment < 0))
        if len(hopeless):
            raise InternalError(
                f"request {hopeless[0]} needs more KV blocks than the pool's {machine.num_blocks}; "
                "it should have been refused before planning."
            )
        exclusive = exclusive | too_large
        forest = None
    tree = Tree.of_segments(table, forest, segments)
    arrangement = arrange(tree, order, machine)
    request = forest.request[segments.node]
    return _assemble(table, tree, arrangement, request, sharing, order)


def forest_of(table: RequestTable, exclusive: BoolArray | None = None) -> Forest:
    """The prefix forest of what a table's prompts have to compute.

    Args:
        exclusive: bool [N], requests that share nothing; None: none but those without a token.
    """
    lengths = table.computed_lengths
    nothing = lengths == 0
    exclusive = nothing if exclusive is None else exclusive | nothing
    return build_forest(
        table.tokens, table.offsets, table.choices, exclusive, lengths, table.prefix_classes
    )


def _blocks_needed(table: RequestTable, segments: Segments, block_size: int) -> Int64Array:
    """KV blocks that a sequence of each request holds at its end, int64 [N].

    The last generated token is never fed back, so it needs no KV.
    """
    path_blocks = np.append(-(-(segments.end - segments.start) // block_size), 0)
    for level in split_by_level(segments.level)[1:]:
        path_blocks[level] += path_blocks[segments.parent[level]]
    own = table.computed_lengths - np.append(segments.end, 0)[segments.request_segment]
    own_blocks = -(-(own + table.max_new_tokens - 1) // block_size)
    needed: Int64Array = path_blocks[segments.request_segment] + own_blocks
    return needed


def _too_deep(segments: Segments, needed: Int64Array, machine: Machine) -> BoolArray:
    """Requests behind so many segments that their states leave no room for the largest request.

    Each segment on a request's path holds a state, and the request its own, which the machine's
    blocks leave room for.
    """
    if machine.states is None:
        return np.zeros(len(needed), dtype=np.bool_)
    behind = np.append(segments.level + 1, 0)[segments.request_segment]
    room = machine.num_blocks - needed[needed <= machine.num_blocks].max(initial=0)
    deep: BoolArray = behind * machine.states.tokens > room * machine.block_size
    return deep & (behind > 0)


def _assemble(
    table: RequestTable,
    tree: Tree,
    arrangement: Arrangement,
    segment_request: Int64Array,
    sharing: Sharing,
    order: Order,
) -> Plan:
    """The plan of an arrangement.

    Args:
        tree: its requests' `index` are those of the table.
        segment_request: int64 [S], a request that begins with each segment of the tree.
    """
    by_first = np.argsort(arrangement.request_first)
    choices = tree.choices[by_first]
    request = np.repeat(by_first, choices)
    choice = np.arange(len(request)) - np.repeat(arrangement.request_first[by_first], choices)
    prompt_tokens = int((table.lengths[tree.index] * tree.choices).sum())
    computed = int((tree.prompt * tree.choices).sum())
    length = tree.length[arrangement.source]
    return Plan(
        segment_parent=_int32(arrangement.parent),
        segment_start=_int32(tree.start[arrangement.source]),
        segment_length=_int32(length),
        segment_request=_int32(segment_request[arrangement.source]),
        segment_first=_int32(arrangement.first),
        segment_last=_int32(arrangement.last),
        sequence_request=_int32(tree.index[request]),
        sequence_choice=_int32(choice),
        sequence_segment=_int32(arrangement.leaf[request]),
        sharing=sharing,
        order=order,
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=computed
        - int((length * (arrangement.last - arrangement.first - 1)).sum()),
    )


def reordered(
    plan: Plan, table: RequestTable, order: Order, machine: Machine | None = None
) -> Plan:
    """The plan in another order; where that leaves a choice, in its own.

    Args:
        plan: one that has not been cut into pieces, so not one ordered by `blend`.
        machine: see `shoal.planner.order.arrange`.
    """
    tree = Tree.of_plan(table, plan)
    arrangement = arrange(tree, order, machine)
    request = plan.segment_request.astype(np.int64)
    return _assemble(table, tree, arrangement, request, plan.sharing, order)


def spread(plan: Plan, table: RequestTable) -> Plan:
    """The plan with everything that has the same parent in an order whose every stretch is a sample
    of all of it, evenly taken: not to be run, but to be cut into parts that are alike.

    By multiples of the golden ratio, modulo 1.

    Args:
        plan: as for `reordered`.
    """
    tree = Tree.of_plan(table, plan)
    key = np.asarray(np.arange(len(tree.above)) * _GOLDEN % 1.0, dtype=np.float64)
    arrangement = depth_first(tree, key)
    request = plan.segment_request.astype(np.int64)
    return _assemble(table, tree, arrangement, request, plan.sharing, plan.order)


def _int32(values: Int64Array) -> Int32Array:
    return values.astype(np.int32)
