"""The Triton kernel that draws from rows whose likeliest candidates do not suffice.

Few rows need it, which ones only the device knows: so one program is started per row, and those
that are not needed end at once. It ranks nothing. Scores are at most 0, so the bits of -score, read
as a whole number, order them; a running sum over ranked tokens is the sum over all keys up to one,
and where it passes a bound is found by bisection over keys, a pass over the row each. Sums are
float64 of float32 weights as in `shoal.sampling.draw`, in another order: the two may differ where a
uniform number lies within rounding of the border between two tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shoal.sampling.draw import DrawParams

_BLOCK = 4096
_WARPS = 8


def draw_rest(
    scores: torch.Tensor,
    mass: torch.Tensor,
    params: DrawParams,
    tokens: torch.Tensor,
    short: torch.Tensor,
    block: int = _BLOCK,
) -> torch.Tensor:
    """A `shoal.sampling.draw.Rest` for a GPU.

    Args:
        block: tokens that a program works on at once, a power of two.
    """
    tokens = tokens.contiguous()
    _draw_row[(len(scores),)](
        scores,
        mass,
        params.top_k,
        params.top_p,
        params.uniforms,
        short,
        tokens,
        scores.shape[1],
        scores.stride(0),
        BLOCK=block,
        num_warps=_WARPS,
    )
    return tokens


@triton.jit
def _draw_row(
    scores, mass, top_k, top_p, uniforms, short, tokens, vocab, stride, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(short + row) != 0:
        base = scores + row * stride
        k = tl.load(top_k + row)
        p = tl.load(top_p + row)
        bound = tl.load(mass + row)
        # Keys of tokens that are possible at all end before that of -inf.
        last = tl.full((), 0x7F7FFFFF, tl.int32)
        if k < vocab:
            last = tl.minimum(last, _least_key(base, vocab, k.to(tl.float64), True, BLOCK))
            bound = _sum_up_to(base, vocab, last, False, BLOCK)
        limit = p * bound
        cut = last
        if p < 1:
            cut = tl.minimum(last, _least_key(base, vocab, limit, False, BLOCK))
        below = _sum_up_to(base, vocab, cut - 1, False, BLOCK)
        equals = _sum_up_to(base, vocab, cut, True, BLOCK)
        equals -= _sum_up_to(base, vocab, cut - 1, True, BLOCK)
        weight = _weight(cut)
        if (p < 1) & (weight > 0):
            equals = tl.minimum(equals, tl.ceil((limit - below) / weight))
        target = tl.load(uniforms + row) * (below + equals * weight)
        level = cut
        if target <= below:
            level = _least_key(base, vocab, target, False, BLOCK)
            below = _sum_up_to(base, vocab, level - 1, False, BLOCK)
            weight = _weight(level)
            equals = _sum_up_to(base, vocab, level, True, BLOCK)
            equals -= _sum_up_to(base, vocab, level - 1, True, BLOCK)
        rank = tl.full((), 0, tl.float64)
        if weight > 0:
            rank = tl.ceil((target - below) / weight) - 1
        rank = tl.maximum(0.0, tl.minimum(rank, equals - 1))
        tl.store(tokens + row, _at(base, vocab, level, rank.to(tl.int64), BLOCK))


@triton.jit
def _keys(base, start, vocab, BLOCK: tl.constexpr):
    """Keys of a block of the row, int32; beyond the row, that of -inf."""
    at = start + tl.arange(0, BLOCK)
    score = tl.load(base + at, mask=at < vocab, other=-float("inf"))
    return tl.abs(score).to(tl.int32, bitcast=True)


@triton.jit
def _weight(key):
    """exp(score) of a key, float64, from float32."""
    return tl.exp(-key.to(tl.float32, bitcast=True)).to(tl.float64)


@triton.jit
def _sum_up_to(base, vocab, key, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Weights of the tokens with keys up to one, or how many they are; float64."""
    total = tl.full((), 0, tl.float64)
    for start in range(0, vocab, BLOCK):
        keys = _keys(base, start, vocab, BLOCK)
        if COUNT:
            total += tl.sum((keys <= key).to(tl.float64), 0)
        else:
            total += tl.sum(tl.where(keys <= key, _weight(keys), 0.0), 0)
    return total


@triton.jit
def _least_key(base, vocab, wanted, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The least key up to which the sum reaches `wanted`; beyond all finite ones if none does."""
    low = tl.full((), 0, tl.int32)
    high = tl.full((), 0x7F800000, tl.int32)
    for _ in range(31):
        middle = low + (high - low) // 2
        reached = _sum_up_to(base, vocab, middle, COUNT, BLOCK) >= wanted
        high = tl.where(reached, middle, high)
        low = tl.where(reached, low, tl.minimum(middle + 1, high))
    return high


@triton.jit
def _at(base, vocab, key, rank, BLOCK: tl.constexpr):
    """The token with a key that comes `rank`-th among its equals, by ids from 0."""
    found = tl.full((), 0, tl.int64)
    seen = tl.full((), 0, tl.int64)
    for start in range(0, vocab, BLOCK):
        same = (_keys(base, start, vocab, BLOCK) == key).to(tl.int64)
        number = seen + tl.cumsum(same, 0) - 1
        ids = (start + tl.arange(0, BLOCK)).to(tl.int64)
        found += tl.sum(tl.where((same > 0) & (number == rank), ids, 0), 0)
        seen += tl.sum(same, 0)
    return found
