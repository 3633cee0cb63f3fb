"""The light launch after attention: rows with several partial results, or with none."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def merge(
    out,
    lse_out,
    part_out,
    part_lse,
    counts,
    rows,
    offsets,
    slots,
    sinks,
    num_rows,
    HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    WITH_LSE: tl.constexpr,
    SINKS: tl.constexpr,
):
    """Row `entry` of the list, heads [TILE * i, TILE * (i + 1)): its parts, weighted by their LSE.

    Args:
        out: [num_rows, HEADS, VALUE_DIM]; lse_out: float32 [num_rows, HEADS], only if WITH_LSE.
        part_out: float32 [slots, HEADS, VALUE_DIM]; part_lse: float32 [slots, HEADS].
        counts: int32; the second is the number of rows in the list.
        rows: int32; offsets: int32; slots: int32; the parts of rows[i] are at
            slots[offsets[i]:offsets[i + 1]]. Rows from num_rows on do not exist and are left.
        sinks: [HEADS], one more score of each row; only if SINKS.
        COLUMNS: VALUE_DIM or the next power of two.
    """
    entry = tl.program_id(0)
    if entry < tl.load(counts + 1):
        row = tl.load(rows + entry)
        if row < num_rows:
            head = tl.program_id(1) * TILE + tl.arange(0, TILE)
            column = tl.arange(0, COLUMNS)
            real = head < HEADS
            inside = real[:, None] & (column[None, :] < VALUE_DIM)
            top = tl.full([TILE], float("-inf"), tl.float32)
            weight = tl.zeros([TILE], tl.float32)
            total = tl.zeros([TILE, COLUMNS], tl.float32)
            for part in range(tl.load(offsets + entry), tl.load(offsets + entry + 1)):
                at = tl.load(slots + part).to(tl.int64) * HEADS + head
                lse = tl.load(part_lse + at, mask=real, other=float("-inf"))
                value = tl.load(
                    part_out + at[:, None] * VALUE_DIM + column[None, :], mask=inside, other=0.0
                )
                higher = tl.maximum(top, lse)
                level = tl.where(higher == float("-inf"), 0.0, higher)
                fade, gain = tl.exp(top - level), tl.exp(lse - level)
                weight = weight * fade + gain
                total = total * fade[:, None] + value * gain[:, None]
                top = higher
            nothing = weight == 0
            weight = tl.where(nothing, 1.0, weight)
            extra = tl.zeros_like(weight)
            if SINKS:
                sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32)
                extra = tl.exp(tl.where(nothing, float("-inf"), sink - top))
            total = total / (weight + extra)[:, None]
            at = row.to(tl.int64) * HEADS + head
            address = out + at[:, None] * VALUE_DIM + column[None, :]
            tl.store(address, total.to(out.dtype.element_ty), mask=inside)
            if WITH_LSE:
                lse = tl.where(nothing, float("-inf"), top + tl.log(weight))
                tl.store(lse_out + at, lse, mask=real)
