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
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_LOW: tl.constexpr,
    VALUE_HIGH: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    """A tile's result, to the output or to its slots.

    top: the rows' largest scores, in base 2; weight: the sums of their exponentials; sum_low,
    sum_high: [ROWS, VALUE_LOW], [ROWS, VALUE_HIGH], not yet divided by them.
    """
    slot = tl.load(task + 7)
    nothing = weight == 0
    weight = tl.where(nothing, 1.0, weight)
    share = 1.0 / weight
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
