"""The ops between a layer's matrix products (`csrc/ops/`), as callables on torch tensors.

All read bfloat16 or float32, compute in float32 and round once, when they write. The struct of a
call is made once; a call only fills in what changed, since it costs as much as a small op does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch

from shoal.kernels.interface import DTYPES, Gated, Quantize, RmsNorm, Rotary
from shoal.kernels.library import Isa, Kernels


class Activation(IntEnum):
    """Activations of gated MLPs that the kernel knows, as it calls them."""

    silu = 0
    gelu_tanh = 1


class RmsNormOp:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), over the last dimension."""

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        eps: float,
        offset: float = 0.0,
        isa: Isa | None = None,
    ) -> None:
        """`weight`: [width], dense. `isa`: another than the machine's fastest, for tests."""
        assert weight.is_contiguous()
        self._run, self._weight = kernels.lib.shoal_rms_norm, weight
        self._call = RmsNorm(
            dtype=DTYPES[weight.dtype],
            isa=kernels.isa if isa is None else isa,
            width=weight.numel(),
            weight=weight.data_ptr(),
            offset=offset,
            eps=eps,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., width] of the weight's dtype; returns the same shape, dense."""
        x = x.contiguous()
        out, call = torch.empty_like(x), self._call
        call.threads = torch.get_num_threads()
        call.rows, call.x_row = x.numel() // call.width, call.width
        call.x, call.out = x.data_ptr(), out.data_ptr()
        self._run(ctypes.byref(call))
        return out


class GatedOp:
    """activation(gate) * up, where gate and up are the halves of the last dimension."""

    def __init__(
        self,
        kernels: Kernels,
        activation: Activation,
        dtype: torch.dtype,
        isa: Isa | None = None,
    ) -> None:
        self._run = kernels.lib.shoal_gated
        isa = kernels.isa if isa is None else isa
        self._call = Gated(dtype=DTYPES[dtype], isa=isa, activation=activation)

    def __call__(self, gate_up: torch.Tensor) -> torch.Tensor:
        """gate_up: [..., 2 * width]; returns [..., width]."""
        gate_up = gate_up.contiguous()
        call, width = self._call, gate_up.shape[-1] // 2
        out = gate_up.new_empty(*gate_up.shape[:-1], width)
        call.threads = torch.get_num_threads()
        call.rows, call.width = out.numel() // width, width
        call.input, call.input_row, call.out = gate_up.data_ptr(), 2 * width, out.data_ptr()
        self._run(ctypes.byref(call))
        return out


ZERO_POINT = 128
"""What 0 is quantized to."""


class QuantizeOp:
    """Each row in 8 bits, up to the row's largest number."""

    def __init__(self, kernels: Kernels, isa: Isa | None = None) -> None:
        """`isa`: another than the machine's fastest, for tests."""
        self._run = kernels.lib.shoal_quantize
        self._call = Quantize(isa=kernels.isa if isa is None else isa)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: [rows, width], float32 or bfloat16; returns uint8 [rows, width] and float32 scales
        [rows, 1]: x is nearly scales * (first - `ZERO_POINT`). The scale of a row with a number
        that is not finite is NaN."""
        x = x.contiguous()
        out, scales = torch.empty_like(x, dtype=torch.uint8), x.new_empty(len(x), 1).float()
        call = self._call
        call.dtype, call.threads = DTYPES[x.dtype], torch.get_num_threads()
        call.rows, call.width = x.shape
        call.x, call.x_row = x.data_ptr(), call.width
        call.out, call.scales = out.data_ptr(), scales.data_ptr()
        self._run(ctypes.byref(call))
        return out, scales


@dataclass(frozen=True)
class HeadNorm:
    """An RMSNorm of each query and each key head: weights [key_dim], both of the same eps."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float
    offset: float


@dataclass(frozen=True)
class Heads:
    """What a row of a fused query, key and value product holds, in this order."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return (self.heads + self.kv_heads) * self.key_dim + self.kv_heads * self.value_dim


class RotaryOp:
    """Norms and rotates query and key heads, and stores keys and values in the pool."""

    def __init__(
        self,
        kernels: Kernels,
        heads: Heads,
        dtype: torch.dtype,
        *,
        neighbours: bool = False,
        norm: HeadNorm | None = None,
        isa: Isa | None = None,
    ) -> None:
        """`neighbours`: number 2i of a head is rotated with 2i + 1, not i with i + half."""
        self._run, self._norm, self._dtype = kernels.lib.shoal_rotary, norm, dtype
        self._call = Rotary(
            dtype=DTYPES[dtype],
            isa=kernels.isa if isa is None else isa,
            heads=heads.heads,
            kv_heads=heads.kv_heads,
            key_dim=heads.key_dim,
            value_dim=heads.value_dim,
            neighbours=neighbours,
            qkv_row=heads.width,
        )
        if norm is not None:
            assert norm.query.is_contiguous()
            assert norm.key.is_contiguous()
            self._call.query_norm, self._call.key_norm = norm.query.data_ptr(), norm.key.data_ptr()
            self._call.offset, self._call.eps = norm.offset, norm.eps

    def __call__(
        self,
        qkv: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        slots: torch.Tensor | None = None,
        keys: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Turn T rows, and store them if given a pool.

        Args:
            qkv: [T, width], dense, of the op's dtype or float32.
            angles: cosines and sines [T, rotary_dim]; None: nothing is rotated.
            slots: int64 [T], the pool slot of each row.
            keys, values: the layer's pool as the C++ attention allocates it.

        Returns:
            The rows turned, in the op's dtype: `qkv` itself, changed, if that is its own.
        """
        call, rows = self._call, qkv.shape[0]
        turned, call.wide = qkv, None
        if qkv.dtype != self._dtype:
            assert qkv.dtype == torch.float32
            assert qkv.is_contiguous()
            turned, call.wide = torch.empty_like(qkv, dtype=self._dtype), qkv.data_ptr()
        call.threads, call.rows, call.qkv = torch.get_num_threads(), rows, turned.data_ptr()
        call.rotary_dim, cos, sin = 0, None, None
        if angles is not None:
            cos, sin = (a.to(self._dtype).contiguous() for a in angles)
            call.rotary_dim = call.angle_row = cos.shape[1]
            call.cos, call.sin = cos.data_ptr(), sin.data_ptr()
        call.keys, call.values = None, None
        if slots is not None and keys is not None and values is not None:
            call.slots, call.keys, call.values = (
                slots.data_ptr(),
                keys.data_ptr(),
                values.data_ptr(),
            )
        self._run(ctypes.byref(call))
        return turned

    def set_pool(self, num_slots: int) -> None:
        """Say how many slots the pools given to later calls have."""
        self._call.keys_head = num_slots * self._call.key_dim
        self._call.values_head = num_slots * self._call.value_dim


RowOp = Callable[[torch.Tensor], torch.Tensor]
"""Does the same to each row of [..., width]."""

Rotation = Callable[[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None], torch.Tensor]
"""Turns heads as `RotaryOp` does when no pool is given."""


class LayerOps(Protocol):
    """Makes the ops of a kind of device."""

    def rms_norm(self, weight: torch.Tensor, eps: float, offset: float) -> RowOp:
        """What `RmsNormOp` does. `weight`: [width], dense."""

    def gated(self, activation: Activation, dtype: torch.dtype) -> RowOp:
        """What `GatedOp` does, for gates and ups of a dtype."""

    def rotation(
        self, heads: Heads, dtype: torch.dtype, *, neighbours: bool, norm: HeadNorm | None
    ) -> Rotation:
        """What `RotaryOp` does, for a model's dtype."""


class NativeOps:
    """`LayerOps` for the CPU, in C++."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def rms_norm(self, weight: torch.Tensor, eps: float, offset: float) -> RmsNormOp:
        """See `LayerOps`."""
        return RmsNormOp(self._kernels, weight, eps, offset)

    def gated(self, activation: Activation, dtype: torch.dtype) -> GatedOp:
        """See `LayerOps`."""
        return GatedOp(self._kernels, activation, dtype)

    def rotation(
        self, heads: Heads, dtype: torch.dtype, *, neighbours: bool, norm: HeadNorm | None
    ) -> RotaryOp:
        """See `LayerOps`."""
        return RotaryOp(self._kernels, heads, dtype, neighbours=neighbours, norm=norm)
