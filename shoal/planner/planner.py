"""From requests to a plan: build the forest, choose segments, put sequences in order."""

from __future__ import annotations

import numpy as np

from shoal.config import Order, Sharing
from shoal.errors import InternalError
from shoal.planner.forest import Forest, build_forest, split_by_level
from shoal.planner.order import Arrangement, arrange
from shoal.planner.plan import Plan
from shoal.planner.sharing import FoldCost, Segments, choose_segments
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable


def make_plan(
    table: RequestTable,
    *,
    sharing: Sharing = Sharing.forest,
    order: Order = Order.ratio,
    exclusive: BoolArray | None = None,
    block_size: int = 16,
    capacity_blocks: int | None = None,
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
        fold_cost: what a segment costs beyond its tokens; None: the default.
        forest: the forest of this table and `exclusive` when there is one already.

    Raises:
        InternalError: a request does not fit the pool even alone. Callers refuse those first.
    """
    if exclusive is None:
        exclusive = np.zeros(len(table), dtype=np.bool_)
    while True:
        if forest is None:
            forest = build_forest(table.tokens, table.offsets, table.choices, exclusive)
        segments = choose_segments(forest, sharing, fold_cost)
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
    places = arrange(table, forest, segments, order)
    return _assemble(table, forest, segments, places, sharing, order)


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
    forest: Forest,
    segments: Segments,
    places: Arrangement,
    sharing: Sharing,
    order: Order,
) -> Plan:
    """Number segments and sequences in the order to run."""
    by_place = np.lexsort((segments.level, places.segment_first))
    number = np.full(len(by_place) + 1, -1, dtype=np.int64)
    number[by_place] = np.arange(len(by_place))

    by_first = np.argsort(places.request_first)
    choices = table.choices[by_first]
    request = np.repeat(by_first, choices)
    choice = np.arange(len(request)) - np.repeat(places.request_first[by_first], choices)
    prompt_tokens = int((table.lengths * table.choices).sum())
    return Plan(
        segment_parent=_int32(number[segments.parent[by_place]]),
        segment_start=_int32(segments.start[by_place]),
        segment_length=_int32((segments.end - segments.start)[by_place]),
        segment_request=_int32(forest.request[segments.node[by_place]]),
        segment_first=_int32(places.segment_first[by_place]),
        segment_last=_int32((places.segment_first + segments.users)[by_place]),
        sequence_request=_int32(request),
        sequence_choice=_int32(choice),
        sequence_segment=_int32(number[segments.request_segment[request]]),
        sharing=sharing,
        order=order,
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=prompt_tokens - segments.saved_tokens,
    )


def _int32(values: Int64Array) -> Int32Array:
    return values.astype(np.int32)
