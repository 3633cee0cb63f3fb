"""The Triton kernel for rows without top-k and top-p: the likeliest token, or one drawn.

One program per row, which reads the row once and then one block of it again. From the first pass it
keeps each block's largest logit and, relative to that, the block's mass. So the row's largest logit
need not be known before the masses are summed, and the block in which the running sum reaches the
uniform's share is known without another pass. (A min-p needs the largest first: two passes.)

Weights are float32, summed within a block in float32 and over blocks in float64. So a token may
differ from that of `shoal.sampling.draw` where the uniform number lies within rounding (about 1e-6
of the mass) of the border between two tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LARGEST = tl.constexpr(3.4028234663852886e38)
UNSOUND = tl.constexpr(-1)
"""As in `shoal.sampling.choose`."""


@triton.jit
def draw_plain(
    logits,
    stride,
    vocab,
    rows,
    samples,
    temperature,
    min_p,
    uniforms,
    tokens,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The token of each of n samples, by programs [n].

    Args:
        logits: [R, vocab], float; strides stride, 1.
        rows, samples, temperature, min_p, uniforms: [n], see `RowGroup` and `DrawParams`.
        tokens: int64 [S].
        BLOCK: tokens worked on at once; BLOCKS: at least as many as a row has. Powers of two.
    """
    at = tl.program_id(0)
    base = logits + tl.load(rows + at) * stride
    heat = tl.load(temperature + at)
    scale = scale_of(heat)
    peaks, sums, _ = read_row(base, vocab, scale, BLOCK, BLOCKS)
    peak = tl.max(peaks, 0)
    masses = masses_of(peaks, sums, peak, scale)
    token = tl.full((), UNSOUND, tl.int32)
    if is_sound(masses):
        if heat > 0:
            least = tl.log2(tl.load(min_p + at))
            if least > -float("inf"):
                masses = _masses_above(base, vocab, peak, scale, least, BLOCK, BLOCKS)
            token = _drawn(base, vocab, peak, scale, least, masses, tl.load(uniforms + at), BLOCK)
        else:
            token = _first(base, vocab, peak, peaks, BLOCK, BLOCKS)
    tl.store(tokens + tl.load(samples + at), token.to(tl.int64))


@triton.jit
def scale_of(temperature):
    """What turns a difference of logits into one of powers of two; finite and above 0."""
    heat = tl.where(temperature > 0, temperature, 1.0)
    return tl.minimum(_LOG2_E / heat, _LARGEST)


@triton.jit
def read_row(base, vocab, scale, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """One pass over a row.

    Returns, float32: of each block its largest logit, and the sum of 2^((logit - largest) * scale),
    which is NaN if a logit is NaN or infinite; of each lane of the blocks the largest logit there.
    """
    numbers = tl.arange(0, BLOCKS)
    peaks = tl.full((BLOCKS,), -float("inf"), tl.float32)
    sums = tl.full((BLOCKS,), 0.0, tl.float32)
    lanes = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in tl.range(0, vocab, BLOCK, num_stages=3):
        block = read_block(base, start, vocab, BLOCK)
        peak = tl.max(block, 0)
        # A block of impossible tokens has no mass, and -inf - -inf is no number.
        origin = tl.where(peak > -float("inf"), peak, 0.0)
        mass = tl.sum(tl.exp2((block - origin) * scale), 0)
        here = numbers == start // BLOCK
        peaks = tl.where(here, peak, peaks)
        sums = tl.where(here, mass, sums)
        lanes = tl.maximum(lanes, block)
    return peaks, sums, lanes


@triton.jit
def read_block(base, start, vocab, BLOCK: tl.constexpr):
    """A block of a row in float32; beyond the row -inf."""
    at = start + tl.arange(0, BLOCK)
    return tl.load(base + at, mask=at < vocab, other=-float("inf")).to(tl.float32)


@triton.jit
def masses_of(peaks, sums, peak, scale):
    """The blocks' masses relative to the row's largest logit, float64."""
    origin = tl.where(peak > -float("inf"), peak, 0.0)
    return sums.to(tl.float64) * tl.exp2((peaks - origin) * scale).to(tl.float64)


@triton.jit
def is_sound(masses):
    """Whether a row's logits are numbers: else there is no mass, or it is NaN."""
    return tl.sum(masses, 0) > 0


@triton.jit
def _masses_above(base, vocab, peak, scale, least, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The blocks' masses, float64, of the tokens that min-p leaves; it is 2^least."""
    numbers = tl.arange(0, BLOCKS)
    masses = tl.full((BLOCKS,), 0.0, tl.float64)
    for start in tl.range(0, vocab, BLOCK, num_stages=3):
        weights = _weights(base, start, vocab, peak, scale, least, BLOCK)
        masses = tl.where(numbers == start // BLOCK, tl.sum(weights, 0).to(tl.float64), masses)
    return masses


@triton.jit
def _weights(base, start, vocab, peak, scale, least, BLOCK: tl.constexpr):
    power = (read_block(base, start, vocab, BLOCK) - peak) * scale
    return tl.where(power >= least, tl.exp2(power), 0.0)


@triton.jit
def _drawn(base, vocab, peak, scale, least, masses, uniform, BLOCK: tl.constexpr):
    """The first token at which the running sum of weights reaches uniform * total."""
    target = uniform * tl.sum(masses, 0)
    block, before = _reached(masses, target)
    weights = _weights(base, block * BLOCK, vocab, peak, scale, least, BLOCK)
    index, _ = _reached(weights.to(tl.float64), target - before)
    return block * BLOCK + index


@triton.jit
def _reached(weights, target):
    """The first index at which the running sum of float64 weights reaches a target, and the sum
    before it; where rounding keeps the sum below, the last that has any weight."""
    index = tl.arange(0, weights.shape[0])
    running = tl.cumsum(weights, 0)
    # Sums of a scan may shrink by a rounding, so that one without weight would seem the first.
    first = tl.min(tl.where((running >= target) & (weights > 0), index, weights.shape[0]), 0)
    found = tl.minimum(first, tl.max(tl.where(weights > 0, index, 0), 0))
    return found, tl.sum(tl.where(index == found, running - weights, 0.0), 0)


@triton.jit
def _first(base, vocab, peak, peaks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The first token whose logit is the largest."""
    block = tl.min(tl.where(peaks == peak, tl.arange(0, BLOCKS), BLOCKS), 0)
    logits = read_block(base, block * BLOCK, vocab, BLOCK)
    return block * BLOCK + tl.min(tl.where(logits == peak, tl.arange(0, BLOCK), BLOCK), 0)
