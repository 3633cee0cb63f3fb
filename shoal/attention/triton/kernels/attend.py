"""The attention launch: a persistent grid walks over tasks of both tile heights.

A task is a tile of query rows, a range of keys of one segment, and a KV head. The query heads of
the KV head's group are folded into the rows: folded row f is query row f // GROUP of the segment's
rows, head f % GROUP of the group, so a tile wastes nothing even if GROUP does not divide it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from shoal.attention.triton.kernels.short import short_tile
from shoal.attention.triton.kernels.tall import tall_tile


@triton.jit
def attend(
    query,
    keys,
    values,
    out,
    lse_out,
    part_out,
    part_lse,
    counts,
    tasks,
    blocks,
    positions,
    sinks,
    query_head,
    query_row,
    scale,
    softcap,
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_LOW: tl.constexpr,
    KEY_HIGH: tl.constexpr,
    VALUE_ROW: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_LOW: tl.constexpr,
    VALUE_HIGH: tl.constexpr,
    FIELDS: tl.constexpr,
    SHORT: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    SIDEWAYS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Every task's attention, written to `out` or, if its rows have other parts, to `part_out`.

    Args:
        query: [KV_HEADS * GROUP, T, KEY_DIM]; strides query_head, query_row, 1.
        keys, values: [num_blocks, KV_HEADS, BLOCK, dim]; VALUE_ROW: from one value to the next, for
            values that lie within keys.
        out: [T, heads, VALUE_DIM], any dtype; lse_out: float32 [T, heads], only if WITH_LSE.
        part_out: float32 [slots, heads, VALUE_DIM]; part_lse: float32 [slots, heads], natural log.
        counts: int32; the first is the number of tasks.
        tasks: int32 [counts[0], FIELDS], see `launch_plan.Field`; longest first.
        blocks: int32, the work's blocks.
        positions: int32 [T], where the rows' windows end, and window: how many keys long they are;
            only if WINDOW.
        softcap: scores become softcap * tanh(score / softcap); only if SOFTCAP.
        sinks: [heads], one more score of each row; only if SINKS.
        SIDEWAYS: whether low tiles lie on their side, see `short_tile`.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    total = tl.load(counts) * KV_HEADS
    rounds = tl.cdiv(total, programs)
    for turn in range(0, rounds):
        # There and back again: whoever had the longest of one round has the shortest of the next.
        seat = tl.where(turn % 2 == 0, program, programs - 1 - program)
        item = turn * programs + seat
        if item < total:
            task = tasks + (item // KV_HEADS) * FIELDS
            head = item % KV_HEADS
            if tl.load(task + 8) == 0:
                if SIDEWAYS:
                    short_tile(
                        query, keys, values, out, lse_out, part_out, part_lse, task, blocks,
                        positions, sinks, head, query_head, query_row, scale, softcap, window,
                        KV_HEADS, GROUP, BLOCK, KEY_DIM, KEY_LOW,
                        KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, SHORT, KEYS, STAGES,
                        WITH_LSE, WINDOW, SOFTCAP, SINKS,
                    )  # fmt: skip
                else:
                    tall_tile(
                        query, keys, values, out, lse_out, part_out, part_lse, task, blocks,
                        positions, sinks, head, query_head, query_row, scale, softcap, window,
                        KV_HEADS, GROUP, BLOCK, KEY_DIM, KEY_LOW,
                        KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, SHORT, KEYS, STAGES,
                        WITH_LSE, WINDOW, SOFTCAP, SINKS,
                    )  # fmt: skip
            else:
                tall_tile(
                    query, keys, values, out, lse_out, part_out, part_lse, task, blocks,
                    positions, sinks, head, query_head, query_row, scale, softcap, window,
                    KV_HEADS, GROUP, BLOCK, KEY_DIM, KEY_LOW,
                    KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, ROWS, KEYS, STAGES,
                    WITH_LSE, WINDOW, SOFTCAP, SINKS,
                )  # fmt: skip
