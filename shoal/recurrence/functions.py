"""The functions of recurrent layers in a packed batch, one for each kind transformers has.

A layer of transformers is row by row but for two functions: a causal convolution, and a recurrence.
Its code calls them by name. In a packed batch the names stand for those here. They take the rows
apart by chunks, have the layer's own functions compute them from the states the chunks go on from,
and store the states they end with. On the CPU our kernels do all of that, where they are built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shoal.errors import InternalError
from shoal.kernels.recurrence import ACTIVATIONS, RecurrenceOps
from shoal.recurrence.prepared import PreparedStates
from shoal.recurrence.state_memory import LayerStates

Current = Callable[[], tuple[LayerStates, PreparedStates]]
"""The layer's states, and the batch that runs."""


@dataclass(frozen=True)
class PackedFunction:
    """A function that takes a recurrent layer's own one's place.

    Attributes:
        step: the name of the layer's function for one token of each row; "": there is none.
        make: the function, from the layer's own ones and what gives the batch that runs.
        shape: what it adds to the shape of the layer's state, from the arguments of a call; the
            function's result is to have the shape of its first argument that is returned with it.
    """

    step: str
    make: Callable[[Callable[..., Any], Callable[..., Any], Current], Callable[..., Any]]
    shape: Callable[..., tuple[dict[str, tuple[int, ...]], Any]]


def _convolution(
    own: Callable[..., Any], _: Callable[..., Any], current: Current
) -> Callable[..., Any]:
    def convolve(
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        activation: str | None = None,
        **__: Any,
    ) -> torch.Tensor:
        """hidden_states: [1, channels, T]; weight: [channels, k]."""
        layer, prepared = current()
        states = _there(layer.conv)
        if prepared.ops is not None and _known(hidden_states, states) and activation in ACTIVATIONS:
            made = prepared.ops.convolution(hidden_states[0].T, weight, bias, activation, states)
            return made.T[None]
        rows = prepared.conv_rows(states.shape[1])
        values = hidden_states[0].T
        extended = values.new_empty(rows.size, values.shape[1])
        extended[rows.own] = values
        extended[rows.from_states] = states.flatten(0, 1)[rows.source].to(values.dtype)
        if len(rows.from_rows):
            extended[rows.from_rows] = values[rows.batch_rows]
        out = own(extended.T[None], weight, bias, activation=activation)
        tails = extended[rows.tails].view(-1, *states.shape[1:])
        states[prepared.targets] = tails.to(states.dtype)
        return out[0].T[rows.own].T[None]  # type: ignore[no-any-return]

    return convolve


def _delta_rule(
    chunked: Callable[..., Any], recurrent: Callable[..., Any], current: Current
) -> Callable[..., Any]:
    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        g: torch.Tensor,
        beta: torch.Tensor,
        use_qk_l2norm_in_kernel: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """query, key, value: [1, T, heads, dim]; g, beta: [1, T, heads, ...]."""
        layer, prepared = current()
        states = _there(layer.recurrent)
        if prepared.ops is not None and prepared.ops.know(value.dtype):
            made = prepared.ops.delta_rule(
                query[0],
                key[0],
                value[0],
                g[0].float().exp(),
                beta[0].float(),
                states,
                normalize=use_qk_l2norm_in_kernel,
            )
            return made[None], None
        out = torch.empty_like(value)
        for batch in prepared.batches:
            # A padded token decays nothing (g = 0) and writes nothing (beta = 0).
            q, k, v, decay, rate = (batch.padded(x[0]) for x in (query, key, value, g, beta))
            function = recurrent if batch.length == 1 else chunked
            result, end = function(
                q,
                k,
                v,
                g=decay,
                beta=rate,
                initial_state=states[batch.source],
                output_final_state=True,
                use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
            )
            batch.store(result, out[0])
            states[batch.target] = end.to(states.dtype)
        return out, None

    return attend


def _state_space(
    chunked: Callable[..., Any], step: Callable[..., Any], current: Current
) -> Callable[..., Any]:
    def scan(
        hidden_states: torch.Tensor,
        dt: torch.Tensor,
        A: torch.Tensor,  # noqa: N803 - transformers' names
        B: torch.Tensor,  # noqa: N803
        C: torch.Tensor,  # noqa: N803
        *,
        chunk_size: int,
        D: torch.Tensor,  # noqa: N803
        dt_bias: torch.Tensor,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        **_: Any,
    ) -> torch.Tensor:
        """hidden_states: [1, T, heads, dim]; dt: [1, T, heads]; B, C: [1, T, groups, state]."""
        layer, prepared = current()
        states = _there(layer.recurrent)
        out = torch.empty_like(hidden_states)
        dim, size = states.shape[2:]
        # A padded token takes no time: it neither decays nor writes.
        time = nn.functional.softplus(dt[0] + dt_bias.to(dt.dtype))
        if tuple(map(float, dt_limit)) != (0.0, float("inf")):
            # transformers keeps prompts within the limits, and not the steps of an answer.
            time = torch.where(prepared.generated[:, None], time, time.clamp(*dt_limit))
        if prepared.ops is not None and prepared.ops.know(hidden_states.dtype):
            keep = (time.float() * A.float()).exp()
            rows = hidden_states[0], B[0], C[0]
            return prepared.ops.state_space(*rows, time.float(), keep, D, states)[None]
        for batch in prepared.batches:
            x, b, c = (batch.padded(each[0]) for each in (hidden_states, B, C))
            begin = states[batch.source]
            if batch.length == 1:
                result = step(
                    begin,
                    x[:, 0],
                    time[batch.rows, :, None].expand(-1, -1, dim),
                    A[:, None, None].expand(-1, dim, size).float(),
                    b[:, 0],
                    c[:, 0],
                    D[:, None].expand(-1, dim),
                    z=None,
                )[:, None]
                end = begin  # written in place
            else:
                result, end = chunked(
                    x,
                    batch.padded(time),
                    A,
                    b,
                    c,
                    chunk_size=chunk_size,
                    D=D,
                    z=None,
                    return_final_states=True,
                    initial_states=begin,
                )
            batch.store(result, out[0])
            states[batch.target] = end.to(states.dtype)
        return out

    return scan


def _known(rows: torch.Tensor, states: torch.Tensor) -> bool:
    """Whether the convolution's kernel can run rows, whose states are stored as they are."""
    return RecurrenceOps.know(rows.dtype) and rows.dtype == states.dtype


def _there(states: torch.Tensor | None) -> torch.Tensor:
    if states is None:
        raise InternalError("a recurrent layer carries over what it was not seen to")
    return states


def _conv_shape(hidden_states: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> Any:
    channels, tokens = weight.shape
    return {"conv": (tokens - 1, channels)}, hidden_states


def _delta_shape(_: Any, key: torch.Tensor, value: torch.Tensor, **__: Any) -> Any:
    return {"recurrent": (value.shape[2], key.shape[3], value.shape[3])}, (value, None)


def _space_shape(hidden_states: torch.Tensor, *others: Any, **_: Any) -> Any:
    """The others are dt, A, B and C."""
    return {"recurrent": (*hidden_states.shape[2:], others[2].shape[3])}, hidden_states


PACKED_FUNCTIONS: Mapping[str, PackedFunction] = {
    "causal_conv1d_fn": PackedFunction("", _convolution, _conv_shape),
    "torch_chunk_gated_delta_rule": PackedFunction(
        "torch_recurrent_gated_delta_rule", _delta_rule, _delta_shape
    ),
    "chunk_kimi_delta_attention": PackedFunction(
        "recurrent_kimi_delta_attention", _delta_rule, _delta_shape
    ),
    "mamba2_chunk_scan": PackedFunction(
        "mamba2_selective_state_update", _state_space, _space_shape
    ),
}
"""By the name that a layer's code calls."""
