"""The Triton kernel for rows with top-k or top-p.

It sorts nothing. A token's key is its score (logit less the largest, by temperature: at most 0)
without the sign, its bits read as a whole number: the likelier, the smaller. A running sum over
ranked tokens is the sum over all keys up to one, and the key where it passes a bound is found by
bisection, a pass over the tokens each.

Those passes are over few tokens, mostly: the candidates, listed in a second pass over the row. They
are all tokens up to a key up to which enough tokens, or enough of the mass, were seen for certain
among the largest logits of each lane of the blocks. If there are more than the list has room for,
the passes are over the whole row, with the same result.

Scores are those of `shoal.sampling.draw`, bit for bit, so equals and ranks are the same there. Sums
are float64 of float32 weights in another order: the two may differ where a uniform number, or the
edge of top-p, lies within rounding of the border between two tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from shoal.sampling.draw_kernel import (
    _LARGEST,
    UNSOUND,
    is_sound,
    masses_of,
    read_block,
    read_row,
    scale_of,
)

_LAST = tl.constexpr(0x7F7FFFFF)
"""The largest key of a token that is possible at all."""
_NONE = tl.constexpr(0x7F800000)
"""The key of tokens that are not."""


@triton.jit(do_not_specialize=["count"])
def draw_ranked(
    logits,
    stride,
    vocab,
    rows,
    samples,
    temperature,
    min_p,
    top_k,
    top_p,
    uniforms,
    tokens,
    lists,
    count,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROOM: tl.constexpr,
    PASS: tl.constexpr,
):
    """The tokens of `count` samples, by any number of programs.

    Args:
        logits: [R, vocab], float; strides stride, 1.
        rows, samples, temperature, min_p, top_k, top_p, uniforms: [count], see `RowGroup` and
            `DrawParams`.
        tokens: int64 [S].
        lists: int64 [programs, ROOM], each program's candidates: logit's bits << 32 | id.
        BLOCK, BLOCKS: see `draw_plain`.
        PASS: tokens worked on at once in passes over candidates, a power of two.
    """
    program = tl.program_id(0)
    entries = lists + program * ROOM
    for at in range(program, count, tl.num_programs(0)):
        base = logits + tl.load(rows + at) * stride
        # Division by a denormal could be one by 0.
        heat = tl.maximum(tl.load(temperature + at), 1.1754944e-38)
        scale = scale_of(heat)
        peaks, sums, lanes = read_row(base, vocab, scale, BLOCK, BLOCKS)
        peak = tl.max(peaks, 0)
        masses = masses_of(peaks, sums, peak, scale)
        token = tl.full((), UNSOUND, tl.int32)
        if is_sound(masses):
            k = tl.load(top_k + at)
            p = tl.load(top_p + at)
            least = tl.load(min_p + at)
            mass = tl.sum(masses, 0)
            # What min-p makes impossible ends the ranking, as -inf does.
            last = tl.minimum(_bits(tl.log(least)), _LAST)
            near = last
            # After a min-p, top-p is of the mass of all that it leaves, so that all are listed.
            if (k < vocab) | (least == 0):
                seen = _keys(lanes, peak, heat)
                near = tl.minimum(near, _key_of_enough(seen, k, p * mass, vocab))
            # Nobody reads the list of the row before any more; then everybody sees this one.
            tl.debug_barrier()
            found = _list(base, vocab, _logit_of(near, peak, heat), entries, BLOCK, ROOM)
            tl.debug_barrier()
            listed = found <= ROOM
            row = (base, peak, heat, entries, listed, tl.where(listed, found, vocab))
            if k < vocab:
                last = tl.minimum(last, _least_key(row, k.to(tl.float64), True, PASS))
            if (k < vocab) | (least > 0):
                mass = _mass_up_to(row, last, PASS)
            token = _draw(row, last, p, p * mass, tl.load(uniforms + at), PASS)
        tl.store(tokens + tl.load(samples + at), token.to(tl.int64))


@triton.jit
def _bits(score):
    """The key of a score, int32."""
    return tl.abs(score).to(tl.int32, bitcast=True)


@triton.jit
def _keys(block, peak, heat):
    return _bits(tl.div_rn(block - peak, heat))


@triton.jit
def _weight(key):
    """exp(score), float32."""
    return tl.exp(-key.to(tl.float32, bitcast=True))


@triton.jit
def _key_of_enough(keys, k, mass, vocab):
    """The least key up to which there are k of these tokens or, if k is no limit, clearly more than
    a mass; `_NONE` if there is none."""
    weights = tl.where(k < vocab, tl.where(keys <= _LAST, 1.0, 0.0), _weight(keys))
    wanted = tl.where(k < vocab, k.to(tl.float64), mass * 1.00001).to(tl.float32)
    low = tl.full((), 0, tl.int32)
    high = tl.full((), _NONE, tl.int32)
    while low < high:
        middle = low + (high - low) // 2
        inside = keys <= middle
        reached = tl.sum(tl.where(inside, weights, 0.0), 0) >= wanted
        high = tl.where(reached, tl.max(tl.where(inside, keys, 0), 0), high)
        low = tl.where(reached, low, tl.min(tl.where(inside, _NONE, keys), 0))
    return high


@triton.jit
def _logit_of(key, peak, heat):
    """A finite logit that no token with a key up to this one is below, by more than roundings."""
    depth = key.to(tl.float32, bitcast=True) * heat
    return tl.maximum(peak - depth * 1.000001 - tl.abs(peak) * 1e-6, -_LARGEST)


@triton.jit
def _list(base, vocab, least, entries, BLOCK: tl.constexpr, ROOM: tl.constexpr):
    """List the tokens from a logit on, by ids, as far as there is room; how many there are."""
    found = tl.full((), 0, tl.int32)
    for start in tl.range(0, vocab, BLOCK, num_stages=3):
        logits = read_block(base, start, vocab, BLOCK)
        inside = (logits >= least).to(tl.int32)
        number = found + tl.cumsum(inside, 0) - 1
        entry = logits.to(tl.int32, bitcast=True).to(tl.int64) << 32
        entry |= start + tl.arange(0, BLOCK)
        tl.store(entries + number, entry, mask=(inside > 0) & (number < ROOM))
        found += tl.sum(inside, 0)
    return found


@triton.jit
def _draw(row, last, p, limit, uniform, PASS: tl.constexpr):
    """The token at the uniform's share of what is left: keys up to `last`, and of those the fewest
    whose mass reaches `limit`, if p is below 1."""
    cut = last
    if p < 1:
        cut = tl.minimum(last, _least_key(row, limit, False, PASS))
    below, equals = _level(row, cut, PASS)
    weight = _weight(cut).to(tl.float64)
    if (p < 1) & (weight > 0):
        equals = tl.minimum(equals, tl.ceil((limit - below) / weight))
    target = uniform * (below + equals * weight)
    level = cut
    if target <= below:
        level = _least_key(row, target, False, PASS)
        below, equals = _level(row, level, PASS)
        weight = _weight(level).to(tl.float64)
    rank = tl.full((), 0, tl.float64)
    if weight > 0:
        rank = tl.ceil((target - below) / weight) - 1
    rank = tl.maximum(0.0, tl.minimum(rank, equals - 1))
    return _at(row, level, rank.to(tl.int32), PASS)


@triton.jit
def _candidates(row, start, PASS: tl.constexpr):
    """Some of the tokens to choose from: their keys and ids, int32; beyond the last `_NONE`."""
    base, peak, heat, entries, listed, length = row
    ids = start + tl.arange(0, PASS)
    if listed:
        entry = tl.load(entries + ids, mask=ids < length, other=0)
        logits = (entry >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        keys = tl.where(ids < length, _keys(logits, peak, heat), _NONE)
        ids = entry.to(tl.int32)
    else:
        keys = _keys(read_block(base, start, length, PASS), peak, heat)
    return keys, ids


@triton.jit
def _least_key(row, wanted, COUNT: tl.constexpr, PASS: tl.constexpr):
    """The least key up to which the number or mass of tokens reaches `wanted`; `_NONE` if none."""
    low = tl.full((), 0, tl.int32)
    high = tl.full((), _NONE, tl.int32)
    while low < high:
        middle = low + (high - low) // 2
        total = tl.full((PASS,), 0.0, tl.float64)
        below = tl.full((PASS,), 0, tl.int32)
        above = tl.full((PASS,), _NONE, tl.int32)
        for start in range(0, row[5], PASS):
            keys, _ = _candidates(row, start, PASS)
            inside = keys <= middle
            if COUNT:
                total += inside.to(tl.float64)
            else:
                total += tl.where(inside, _weight(keys), 0.0).to(tl.float64)
            below = tl.maximum(below, tl.where(inside, keys, 0))
            above = tl.minimum(above, tl.where(inside, _NONE, keys))
        reached = tl.sum(total, 0) >= wanted
        # Only keys that there are: the bisection ends when one is left.
        high = tl.where(reached, tl.max(below, 0), high)
        low = tl.where(reached, low, tl.min(above, 0))
    return high


@triton.jit
def _mass_up_to(row, key, PASS: tl.constexpr):
    """The mass of the tokens with keys up to one, float64."""
    total = tl.full((PASS,), 0.0, tl.float64)
    for start in range(0, row[5], PASS):
        keys, _ = _candidates(row, start, PASS)
        total += tl.where(keys <= key, _weight(keys), 0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def _level(row, key, PASS: tl.constexpr):
    """The mass of the tokens with keys below one, and how many have it; float64."""
    below = tl.full((PASS,), 0.0, tl.float64)
    equals = tl.full((PASS,), 0, tl.int32)
    for start in range(0, row[5], PASS):
        keys, _ = _candidates(row, start, PASS)
        below += tl.where(keys < key, _weight(keys), 0.0).to(tl.float64)
        equals += (keys == key).to(tl.int32)
    return tl.sum(below, 0), tl.sum(equals, 0).to(tl.float64)


@triton.jit
def _at(row, key, rank, PASS: tl.constexpr):
    """The token with a key that comes `rank`-th among its equals, by ids from 0."""
    token = tl.full((), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    for start in range(0, row[5], PASS):
        keys, ids = _candidates(row, start, PASS)
        same = (keys == key).to(tl.int32)
        number = seen + tl.cumsum(same, 0) - 1
        token += tl.sum(tl.where((same > 0) & (number == rank), ids, 0), 0)
        seen += tl.sum(same, 0)
    return token
