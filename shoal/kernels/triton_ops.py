"""The ops between a layer's matrix products on CUDA, in Triton. Importing this imports triton.

They read any format, compute in float32 and round once, when they write. RMSNorms without offset
round once more, where Llama's family does: before the weights are multiplied. All launch on torch's
current stream, take any number of rows and read nothing back, so CUDA graphs can hold them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from shoal.kernels.ops import Activation, HeadNorm, Heads, Rotation, RowOp

_COLUMNS = 1024
"""Gated numbers of a program."""
_PAIRS = 512
"""Pairs of numbers of a program that turns heads. Not fewer than it has threads: what two threads
held, one could read after the other has written it."""


class TritonOps:
    """`LayerOps` for CUDA."""

    def rms_norm(self, weight: torch.Tensor, eps: float, offset: float) -> RowOp:
        """See `LayerOps`."""
        width = weight.numel()
        block = triton.next_power_of_2(width)
        warps = min(16, max(1, block // 512))

        def run(x: torch.Tensor) -> torch.Tensor:
            rows = _dense_rows(x)
            out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            norm_row[(len(rows),)](
                rows, weight, out, rows.stride(0), eps, offset, width, block, num_warps=warps
            )
            return out

        return run

    def gated(self, activation: Activation, dtype: torch.dtype) -> RowOp:
        """See `LayerOps`."""
        is_silu = activation is Activation.silu

        def run(gate_up: torch.Tensor) -> torch.Tensor:
            rows, width = _dense_rows(gate_up), gate_up.shape[-1] // 2
            out = gate_up.new_empty(*gate_up.shape[:-1], width)
            grid = (len(rows) * triton.cdiv(width, _COLUMNS),)
            gate_row[grid](rows, out, rows.stride(0), width, _COLUMNS, is_silu)
            return out

        return run

    def rotation(
        self, heads: Heads, dtype: torch.dtype, *, neighbours: bool, norm: HeadNorm | None
    ) -> Rotation:
        """See `LayerOps`."""
        block = triton.next_power_of_2(heads.key_dim // 2)
        tile = max(1, _PAIRS // block)
        grid = triton.cdiv(heads.heads + heads.kv_heads, tile)
        norms = None if norm is None else torch.stack([norm.query, norm.key])
        eps, offset = (0.0, 0.0) if norm is None else (norm.eps, norm.offset)

        def run(
            qkv: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor] | None
        ) -> torch.Tensor:
            if angles is None and norms is None:
                return qkv
            # Where nothing is turned, some address stands for the tables, and is not read.
            cos, sin = (qkv, qkv) if angles is None else (a.contiguous() for a in angles)
            turn_heads[(len(qkv) * grid,)](
                qkv,
                cos,
                sin,
                qkv if norms is None else norms,
                qkv.stride(0),
                cos.stride(0),
                eps,
                offset,
                heads.heads,
                heads.heads + heads.kv_heads,
                heads.key_dim,
                0 if angles is None else cos.shape[1],
                neighbours,
                norms is not None,
                block,
                tile,
                num_warps=2,
            )
            return qkv

        return run


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    """[..., width] as [rows, width], whose numbers lie beside each other within a row."""
    rows = x.flatten(0, -2)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


@triton.jit
def _normed(x, scale, weight, OFFSET: tl.constexpr, DTYPE: tl.constexpr):
    """x, scale: float32. The rounding is transformers' in norms that have no offset."""
    x *= scale
    if OFFSET == 0.0:
        x = x.to(DTYPE).to(tl.float32)
    return x * (weight.to(tl.float32) + OFFSET)


@triton.jit
def norm_row(
    x, weight, out, stride, EPS: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A row of x [rows, WIDTH], times the weights [WIDTH], to a dense `out`."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    numbers = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers, 0) / WIDTH + EPS)
    weights = tl.load(weight + at, mask=inside, other=0.0)
    normed = _normed(numbers, scale, weights, OFFSET, x.dtype.element_ty)
    tl.store(out + row * WIDTH + at, normed, mask=inside)


@triton.jit
def gate_row(gate_up, out, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr):
    """A block of a row of gate_up [rows, 2 * WIDTH]: activation(first half) * second half."""
    blocks: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    slope = gate
    if not SILU:
        # GELU by tanh: (1 + tanh(u)) / 2 is the sigmoid of 2u.
        slope = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    tl.store(out + row * WIDTH + at, gate / (1.0 + tl.exp(-slope)) * up, mask=inside)


@triton.jit
def turn_heads(
    qkv, cos, sin, norms, qkv_row, angle_row, EPS: tl.constexpr, OFFSET: tl.constexpr,
    QUERIES: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, ROTARY_DIM: tl.constexpr,
    NEIGHBOURS: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Some heads of a row of qkv, in place: HEADS of DIM numbers, the first QUERIES of them
    queries; cos, sin: [rows, ROTARY_DIM]; norms: [2, DIM], of queries and keys."""
    groups: tl.constexpr = (HEADS + TILE - 1) // TILE
    row = (tl.program_id(0) // groups).to(tl.int64)
    head = (tl.program_id(0) % groups * TILE + tl.arange(0, TILE))[:, None]
    pair = tl.arange(0, BLOCK)[None, :]
    turned = pair < ROTARY_DIM // 2
    if NEIGHBOURS:
        first = 2 * pair
        second = 2 * pair + 1
    else:
        first = pair
        second = pair + ROTARY_DIM // 2
    if ROTARY_DIM < DIM:
        # Numbers that are not turned make pairs, too, with an angle of 0.
        first = tl.where(turned, first, pair + ROTARY_DIM // 2)
        second = tl.where(turned, second, pair + DIM // 2)
    inside = (head < HEADS) & (pair < DIM // 2)
    at = qkv + row * qkv_row + head * DIM
    a = tl.load(at + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(at + second, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(a * a + b * b, 1) / DIM + EPS)[:, None]
        weights = norms + tl.where(head < QUERIES, 0, DIM)
        a = _normed(a, scale, tl.load(weights + first, mask=inside, other=0.0), OFFSET,
                    qkv.dtype.element_ty)  # fmt: skip
        b = _normed(b, scale, tl.load(weights + second, mask=inside, other=0.0), OFFSET,
                    qkv.dtype.element_ty)  # fmt: skip
    if ROTARY_DIM > 0:
        cos += row * angle_row
        sin += row * angle_row
        was = a
        a = a * tl.load(cos + first, mask=turned, other=1.0).to(tl.float32)
        a -= b * tl.load(sin + first, mask=turned, other=0.0).to(tl.float32)
        b = b * tl.load(cos + second, mask=turned, other=1.0).to(tl.float32)
        b += was * tl.load(sin + second, mask=turned, other=0.0).to(tl.float32)
    tl.store(at + first, a, mask=inside)
    tl.store(at + second, b, mask=inside)
