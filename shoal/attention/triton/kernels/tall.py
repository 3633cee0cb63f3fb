"""A tile of many rows: shared segments under many users, prefill chunks."""

from __future__ import annotations

import triton
import triton.language as tl

from shoal.attention.triton.kernels.parts import (
    LOG2_E,
    capped,
    edge_of_window,
    folded_rows,
    key_rows,
    load_vectors,
    lowest_seen,
    store_result,
    whole_steps,
)


@triton.jit
def tall_tile(
    query,
    keys,
    values,
    out,
    lse_out,
    part_out,
    part_lse,
    task,
    blocks,
    positions,
    sinks,
    head,
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
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    WITH_LSE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Load the queries, walk over the keys, write the result; see `attend`."""
    key_first = tl.load(task + 3)
    key_last = tl.load(task + 4)
    diagonal = tl.load(task + 5)
    blocks += tl.load(task + 6)
    row, query_heads, live = folded_rows(task, head, GROUP, ROWS)
    at = (tl.load(task) + row).to(tl.int64) * query_row + query_heads.to(tl.int64) * query_head
    q_low = load_vectors(query, at, live, KEY_DIM, 0, KEY_LOW, True)
    if KEY_HIGH > 0:
        q_high = load_vectors(query, at, live, KEY_DIM, KEY_LOW, KEY_HIGH, True)
    else:
        q_high = q_low

    top = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    sum_low = tl.zeros([ROWS, VALUE_LOW], tl.float32)
    # Without a second half this one is never touched, and the compiler drops it.
    sum_high = tl.zeros([ROWS, 16 if VALUE_HIGH == 0 else VALUE_HIGH], tl.float32)

    lowest = row
    edge = key_first
    if WINDOW:
        # The first key that each row sees, and a step from which on all rows see what there is.
        lowest = lowest_seen(task, positions, row, live, window)
        edge = edge_of_window(key_first, key_last, lowest, live, KEYS)
    # Keys that every row of the tile sees need no mask.
    whole = whole_steps(edge, key_last, diagonal + tl.load(task + 2) // GROUP, KEYS)
    if WINDOW:
        for first in tl.range(key_first, edge, KEYS, num_stages=STAGES):
            top, weight, sum_low, sum_high = _absorb(
                q_low, q_high, top, weight, sum_low, sum_high, keys, values, blocks, head,
                first, key_last, diagonal + row, lowest, scale, softcap, KV_HEADS, BLOCK, KEY_DIM,
                KEY_LOW, KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, KEYS, True, True,
                SOFTCAP,
            )  # fmt: skip
    for first in tl.range(edge, whole, KEYS, num_stages=STAGES):
        top, weight, sum_low, sum_high = _absorb(
            q_low, q_high, top, weight, sum_low, sum_high, keys, values, blocks, head,
            first, key_last, diagonal + row, lowest, scale, softcap, KV_HEADS, BLOCK, KEY_DIM,
            KEY_LOW, KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, KEYS, False, False,
            SOFTCAP,
        )  # fmt: skip
    for first in tl.range(whole, key_last, KEYS, num_stages=STAGES):
        top, weight, sum_low, sum_high = _absorb(
            q_low, q_high, top, weight, sum_low, sum_high, keys, values, blocks, head,
            first, key_last, diagonal + row, lowest, scale, softcap, KV_HEADS, BLOCK, KEY_DIM,
            KEY_LOW, KEY_HIGH, VALUE_ROW, VALUE_DIM, VALUE_LOW, VALUE_HIGH, KEYS, True, False,
            SOFTCAP,
        )  # fmt: skip
    store_result(
        task, row, query_heads, live, top, weight, sum_low, sum_high, out, lse_out, part_out,
        part_lse, sinks, KV_HEADS * GROUP, VALUE_DIM, VALUE_LOW, VALUE_HIGH, WITH_LSE, SINKS,
    )  # fmt: skip


@triton.jit
def _absorb(
    q_low,
    q_high,
    top,
    weight,
    sum_low,
    sum_high,
    keys,
    values,
    blocks,
    head,
    first,
    last,
    visible,
    lowest,
    scale,
    softcap,
    KV_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_LOW: tl.constexpr,
    KEY_HIGH: tl.constexpr,
    VALUE_ROW: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_LOW: tl.constexpr,
    VALUE_HIGH: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """One step of the running softmax: KEYS keys from `first` on.

    With MASKED, keys from `last` on do not exist, and row i sees only those below visible[i]; with
    WINDOW, too, only those from lowest[i] on.
    """
    pool_row, key, real = key_rows(blocks, first, last, head, KV_HEADS, BLOCK, KEYS, MASKED)
    k_low = load_vectors(keys, pool_row * KEY_DIM, real, KEY_DIM, 0, KEY_LOW, MASKED)
    scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
    if KEY_HIGH > 0:
        k_high = load_vectors(keys, pool_row * KEY_DIM, real, KEY_DIM, KEY_LOW, KEY_HIGH, MASKED)
        scores = tl.dot(q_high, tl.trans(k_high), scores, input_precision="ieee")
    scores = capped(scores * scale, softcap) * LOG2_E if SOFTCAP else scores * (scale * LOG2_E)
    if MASKED:
        seen = real[None, :] & (key[None, :] < visible[:, None])
        if WINDOW:
            seen = seen & (key[None, :] >= lowest[:, None])
        scores = tl.where(seen, scores, float("-inf"))

    higher = tl.maximum(top, tl.max(scores, 1))
    # Of a row that has only seen scores of -inf, exp2(-inf - -inf) would be NaN.
    level = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2(top - level)
    p = tl.exp2(scores - level[:, None])
    weight = weight * fade + tl.sum(p, 1)

    v_low = load_vectors(values, pool_row * VALUE_ROW, real, VALUE_DIM, 0, VALUE_LOW, MASKED)
    p = p.to(v_low.dtype)
    sum_low = tl.dot(p, v_low, sum_low * fade[:, None], input_precision="ieee")
    if VALUE_HIGH > 0:
        v_high = load_vectors(
            values, pool_row * VALUE_ROW, real, VALUE_DIM, VALUE_LOW, VALUE_HIGH, MASKED
        )
        sum_high = tl.dot(p, v_high, sum_high * fade[:, None], input_precision="ieee")
    return higher, weight, sum_low, sum_high
