"""The recurrences of layers with a state (`csrc/recurrence/`), as callables on torch tensors.

All go over a token batch's rows chunk by chunk, each from the state of its source slot, and leave
the last in its target slot. Rows are bfloat16 or float32; everything is computed in float32 and
rounded once, when it is written.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from shoal.kernels.interface import DTYPES, Convolution, DeltaRule, StateChunks, StateSpace
from shoal.kernels.library import Isa, Kernels
from shoal.state_work import StateWork
from shoal.types import Int64Array

ACTIVATIONS = {None: -1, "silu": 0, "swish": 0}
"""Activations of convolutions that the kernel knows, by transformers' names."""


class RecurrenceOps:
    """The kernels on one token batch.

    States are memory of all slots, float32 but for those of convolutions, dense.
    """

    def __init__(
        self, kernels: Kernels, work: StateWork, source: Int64Array, isa: Isa | None = None
    ) -> None:
        """
        Args:
            source: `work.source` with the slot of the state before a first token.
            isa: another than the machine's fastest, for tests.
        """
        self._lib = kernels.lib
        self._isa = kernels.isa if isa is None else isa
        order = np.argsort(work.level, kind="stable")
        levels = np.cumsum(np.bincount(work.level, minlength=1))
        columns = work.row_first, source, work.target, order, np.append(0, levels)
        self._columns = [np.ascontiguousarray(c, dtype=np.int64) for c in columns]
        addresses = [column.ctypes.data for column in self._columns]
        self._chunks = StateChunks(len(work.target), len(levels), *addresses)

    @staticmethod
    def know(dtype: torch.dtype) -> bool:
        """Whether rows of this format can be run."""
        return dtype in DTYPES

    def delta_rule(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keep: torch.Tensor,
        beta: torch.Tensor,
        states: torch.Tensor,
        *,
        normalize: bool,
    ) -> torch.Tensor:
        """The gated delta rule.

        Args:
            query, key: [T, key heads, key dim]; value: [T, heads, value dim].
            keep: float32 [T, heads] or [T, heads, key dim], what is kept of the state.
            beta: float32 [T, heads].
            states: [slots, heads, key dim, value dim].
            normalize: queries and keys are divided by their length first.

        Returns:
            [T, heads, value dim] of the value's dtype.
        """
        query, key, value = (_rows(x, value.dtype) for x in (query, key, value))
        keep, beta = keep.contiguous(), beta.contiguous()
        out = value.new_empty(value.shape)
        call = DeltaRule(
            **self._how(value.dtype),
            heads=value.shape[1],
            key_heads=key.shape[1],
            key_dim=key.shape[2],
            value_dim=value.shape[2],
            normalize=normalize,
            keep_dim=1 if keep.dim() == 2 else keep.shape[2],
            query=query.data_ptr(),
            key=key.data_ptr(),
            value=value.data_ptr(),
            query_row=query.stride(0),
            key_row=key.stride(0),
            value_row=value.stride(0),
            keep=keep.data_ptr(),
            beta=beta.data_ptr(),
            states=states.data_ptr(),
            out=out.data_ptr(),
        )
        self._lib.shoal_delta_rule(ctypes.byref(call))
        return out

    def state_space(
        self,
        x: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        time: torch.Tensor,
        keep: torch.Tensor,
        skip: torch.Tensor,
        states: torch.Tensor,
    ) -> torch.Tensor:
        """Mamba-2's recurrence.

        Args:
            x: [T, heads, dim]; b, c: [T, groups, state dim].
            time, keep: float32 [T, heads], dt and exp(dt A).
            skip: [heads], D.
            states: [slots, heads, dim, state dim].

        Returns:
            [T, heads, dim] of x' dtype.
        """
        x, b, c = (_rows(each, x.dtype) for each in (x, b, c))
        time, keep, skip = (each.float().contiguous() for each in (time, keep, skip))
        out = x.new_empty(x.shape)
        call = StateSpace(
            **self._how(x.dtype),
            heads=x.shape[1],
            groups=b.shape[1],
            dim=x.shape[2],
            state_dim=b.shape[2],
            x=x.data_ptr(),
            b=b.data_ptr(),
            c=c.data_ptr(),
            x_row=x.stride(0),
            b_row=b.stride(0),
            c_row=c.stride(0),
            time=time.data_ptr(),
            keep=keep.data_ptr(),
            skip=skip.data_ptr(),
            states=states.data_ptr(),
            out=out.data_ptr(),
        )
        self._lib.shoal_state_space(ctypes.byref(call))
        return out

    def convolution(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: str | None,
        states: torch.Tensor,
    ) -> torch.Tensor:
        """A causal convolution of each channel, then one of `ACTIVATIONS`.

        Args:
            x: [T, channels]; weight: [channels, k]; bias: [channels].
            states: [slots, k - 1, channels] of x' dtype.

        Returns:
            [T, channels] of x' dtype.
        """
        x = x if x.stride(1) == 1 else x.contiguous()
        wide = weight.T.float().contiguous()
        offset = None if bias is None else bias.float().contiguous()
        out = x.new_empty(x.shape)
        call = Convolution(
            **self._how(x.dtype),
            activation=ACTIVATIONS[activation],
            earlier=weight.shape[1] - 1,
            channels=x.shape[1],
            x=x.data_ptr(),
            x_row=x.stride(0),
            weight=wide.data_ptr(),
            bias=None if offset is None else offset.data_ptr(),
            states=states.data_ptr(),
            out=out.data_ptr(),
        )
        self._lib.shoal_convolution(ctypes.byref(call))
        return out

    def _how(self, dtype: torch.dtype) -> dict[str, int]:
        return {
            "dtype": DTYPES[dtype],
            "isa": self._isa,
            "threads": torch.get_num_threads(),
            "chunks": ctypes.addressof(self._chunks),
        }


def _rows(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[T, heads, dim], each row dense."""
    x = x.to(dtype)
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
