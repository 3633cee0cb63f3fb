"""What tiles of both heights have in common: where things are, and their reading and writing.

A dimension is held as one or two powers of two (`*_LOW`, `*_HIGH`, the latter 0 if there is none):
96 as 64 + 32 rather than 128.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def folded_rows(task, head, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """The tile's folded rows: their rows in the item, query heads, and whether they exist."""
    folds = tl.load(task + 1) * GROUP
    fold = tl.load(task + 2) + tl.arange(0, ROWS)
    return fold // GROUP, head * GROUP + fold % GROUP, fold < folds


@triton.jit
def whole_steps(key_first, key_last, lowest, KEYS: tl.constexpr):
    """The end of the steps of KEYS keys whose every key exists and is below `lowest`."""
    return key_first + tl.maximum(tl.minimum(key_last, lowest) - key_first, 0) // KEYS * KEYS


@triton.jit
def lowest_seen(task, positions, row, live, window):
    """The first token of the item that a window leaves each of its rows."""
    position = tl.load(positions + tl.load(task) + row, mask=live, other=0)
    return position - window + 1 - tl.load(task + 9)


@triton.jit
def edge_of_window(key_first, key_last, lowest, live, KEYS: tl.constexpr):
    """The first of the steps of KEYS keys whose every key all rows have in their window, or the
    end of the steps."""
    highest = tl.max(tl.where(live, lowest, key_first), 0)
    steps = tl.cdiv(tl.maximum(tl.minimum(highest, key_last) - key_first, 0), KEYS)
    return tl.minimum(key_first + steps * KEYS, tl.maximum(key_last, key_first))


@triton.jit
def capped(scores, softcap):
    """softcap * tanh(scores / softcap)"""
    x = tl.abs(scores) / softcap
    fade = tl.exp2(x * (-2.0 * LOG2_E))
    # By its series where the difference would lose places.
    xx = x * x
    near = x * (1.0 - xx * (1 / 3 - xx * (2 / 15 - xx * (17 / 315))))
    size = softcap * tl.where(x < 0.2, near, (1.0 - fade) / (1.0 + fade))
    return tl.where(scores < 0, -size, size)


@triton.jit
def key_rows(
    blocks,
    first,
    last,
    head,
    KV_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The vectors of keys first ... first + KEYS - 1 in the pool, and which of them exist."""
    key = first + tl.arange(0, KEYS)
    real = key < last
    if MASKED:
        block = tl.load(blocks + key // BLOCK, mask=real, other=0)
    else:
        block = tl.load(blocks + key // BLOCK)
    return (block.to(tl.int64) * KV_HEADS + head) * BLOCK + key % BLOCK, key, real


@triton.jit
def load_vectors(
    pointer,
    at,
    real,
    DIM: tl.constexpr,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Columns [FIRST, FIRST + SIZE) of the vectors at `at`; zeros where not real or beyond DIM."""
    column = FIRST + tl.arange(0, SIZE)
    address = pointer + at[:, None] + column[None, :]
    if FIRST + SIZE > DIM:
        inside = column[None, :] < DIM
        if MASKED:
            inside = inside & real[:, None]
        found = tl.load(address, mask=inside, other=0.0)
    elif MASKED:
        found = tl.load(address, mask=real[:, None], other=0.0)
    else:
        found = tl.load(address)
    return found


@triton.jit
def store_vectors(
    pointer, at, live, value, DIM: tl.constexpr, FIRST: tl.constexpr, SIZE: tl.constexpr
):
    """Columns [FIRST, FIRST + SIZE) of the vectors at `at`, as far as they are real."""
    column = FIRST + tl.arange(0, SIZE)
    inside = live[:, None] & (column[None, :] < DIM)
    tl.store(pointer + at[:, None] + column[None, :], value.to(pointer.dtype.element_ty), inside)


@triton.jit
def store_result(
    task,
    row,
    query_heads,
    live,
    top,
    weight,
    sum_low,
    sum_high,
    out,
    lse_out,
    part_out,
    part_lse,
    sinks,
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_LOW: tl.constexpr,
    VALUE_HIGH: tl.constexpr,
    WITH_LSE: tl.constexpr,
    SINKS: tl.constexpr,
):
    """A tile's result, to the output or to its slots.

    top: the rows' largest scores, in base 2; weight: the sums of their exponentials; sum_low,
    sum_high: [ROWS, VALUE_LOW], [ROWS, VALUE_HIGH], not yet divided by them.
    """
    slot = tl.load(task + 7)
    extra = tl.zeros_like(weight)
    if SINKS:
        sink = tl.load(sinks + query_heads, mask=live, other=0.0).to(tl.float32)
        # Of a row with other parts, the merge adds the sink.
        whole = (weight != 0) & (slot < 0)
        extra = tl.exp2(tl.where(whole, sink * LOG2_E - top, float("-inf")))
    nothing = weight == 0
    weight = tl.where(nothing, 1.0, weight)
    share = 1.0 / (weight + extra)
    lse = tl.where(nothing, float("-inf"), top * LN_2 + tl.log(weight))
    out_row = tl.where(slot < 0, tl.load(task), slot) + row
    out_row = out_row.to(tl.int64) * HEADS + query_heads
    at = out_row * VALUE_DIM
    if slot < 0:
        store_vectors(out, at, live, sum_low * share[:, None], VALUE_DIM, 0, VALUE_LOW)
        if VALUE_HIGH > 0:
            high = sum_high * share[:, None]
            store_vectors(out, at, live, high, VALUE_DIM, VALUE_LOW, VALUE_HIGH)
        if WITH_LSE:
            tl.store(lse_out + out_row, lse, mask=live)
    else:
        store_vectors(part_out, at, live, sum_low * share[:, None], VALUE_DIM, 0, VALUE_LOW)
        if VALUE_HIGH > 0:
            high = sum_high * share[:, None]
            store_vectors(part_out, at, live, high, VALUE_DIM, VALUE_LOW, VALUE_HIGH)
        tl.store(part_lse + out_row, lse, mask=live)
