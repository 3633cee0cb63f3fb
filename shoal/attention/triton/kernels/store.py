"""New keys and values into the pool, both in one launch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def store(
    key,
    value,
    keys,
    values,
    slots,
    num_rows,
    slot_step,
    key_head,
    key_row,
    key_column,
    value_head,
    value_row,
    value_column,
    KV_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_COLUMNS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    LATENT: tl.constexpr,
    TILE: tl.constexpr,
):
    """Rows [TILE * i, TILE * (i + 1)) of KV head j.

    Args:
        key: [KV_HEADS, num_rows, KEY_DIM]; strides key_head, key_row, key_column; value likewise.
        keys, values: [num_blocks, KV_HEADS, BLOCK, dim].
        slots: int64 [num_rows], stride slot_step; slot = block * BLOCK + offset.
        KEY_COLUMNS, VALUE_COLUMNS: the dimensions or the next powers of two.
        LATENT: whether values lie within keys, so that there is nothing more to write.
    """
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    head = tl.program_id(1).to(tl.int64)
    real = row < num_rows
    slot = tl.load(slots + row * slot_step, mask=real, other=0)
    pool_row = (slot // BLOCK * KV_HEADS + head) * BLOCK + slot % BLOCK
    row = row.to(tl.int64)[:, None]
    column = tl.arange(0, KEY_COLUMNS)[None, :]
    inside = real[:, None] & (column < KEY_DIM)
    numbers = tl.load(key + head * key_head + row * key_row + column * key_column, mask=inside)
    tl.store(keys + pool_row[:, None] * KEY_DIM + column, numbers, mask=inside)
    if not LATENT:
        column = tl.arange(0, VALUE_COLUMNS)[None, :]
        inside = real[:, None] & (column < VALUE_DIM)
        at = head * value_head + row * value_row + column * value_column
        tl.store(
            values + pool_row[:, None] * VALUE_DIM + column,
            tl.load(value + at, mask=inside),
            mask=inside,
        )
