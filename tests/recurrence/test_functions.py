"""The functions of recurrent layers in a packed batch against transformers' own, each sequence
alone: by the C++ kernels, for every instruction set this machine has, and by torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shoal.kernels import Isa, available_isas, load_kernels
from shoal.kernels.recurrence import RecurrenceOps
from shoal.recurrence import PACKED_FUNCTIONS, PreparedStates
from shoal.recurrence.state_memory import LayerStates
from shoal.state_work import FROM_NOTHING, StateWork

WAYS: list[Isa | None] = [None, *available_isas()]
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 3e-2}
"""Relative, of a row."""

each_way = pytest.mark.parametrize("isa", WAYS, ids=lambda isa: isa.name if isa else "torch")
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

SLOTS = 6
WORK = StateWork(
    row_first=np.cumsum([0, 70, 1, 130, 2, 65, 1]),
    source=np.array([FROM_NOTHING, 0, 0, 3, 4, 5]),
    target=np.arange(SLOTS),
    level=np.array([0, 1, 1, 0, 0, 0]),
    generated=np.zeros(269, dtype=np.bool_),
)
"""A segment and two that start behind it in the same batch; three go on in their slots."""


def function(model: str, name: str) -> Callable[..., Any]:
    """One of transformers' functions, by the model whose file has it."""
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name
    )
    return found


def packed(model: str, name: str, isa: Isa | None, memory: LayerStates) -> Callable[..., Any]:
    """The function of the batch in transformers' one's place."""
    states = PreparedStates(WORK, SLOTS, torch.device("cpu"))
    states.ops = None
    if isa is not None:
        kernels = load_kernels()
        assert kernels is not None
        source = np.where(WORK.source == FROM_NOTHING, SLOTS, WORK.source)
        states.ops = RecurrenceOps(kernels, WORK, source, isa)
    ours = PACKED_FUNCTIONS[name]
    own = function(model, name)
    step = function(model, ours.step) if ours.step else own
    return ours.make(own, step, lambda: (memory, states))


def alone(run: Callable[[slice, torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """The rows of all chunks one after another; `run` takes a chunk's rows and its state, which it
    changes."""
    begun = states.clone()
    out = []
    for chunk in np.argsort(WORK.level, kind="stable"):
        first, last = WORK.row_first[chunk : chunk + 2]
        state = begun[WORK.source[chunk]].clone()  # -1: the last is the state before a token
        out.append((first, run(slice(first, last), state)))
        begun[WORK.target[chunk]] = state
    states.copy_(begun)
    return torch.cat([rows for _, rows in sorted(out, key=lambda each: each[0])])


def near(found: torch.Tensor | None, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found is not None
    found, expected = found.flatten(1).double(), expected.flatten(1).double()
    distance = (found - expected).norm(dim=1)
    assert (distance <= TOLERANCE[dtype] * expected.norm(dim=1) + 1e-6).all(), distance.max()


def begun(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """States of all slots, the last one zero."""
    states = torch.randn(SLOTS + 1, *shape).to(dtype)
    states[SLOTS] = 0
    return states


def rows(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, WORK.num_rows, *shape).to(dtype)


DELTA = {
    "qwen3_5": ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule", ()),
    "kimi_linear": ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention", (24,)),
}


@each_way
@each_dtype
@pytest.mark.parametrize("model", DELTA)
def test_delta_rules(model: str, isa: Isa | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    name, step, decays = DELTA[model]
    heads, key_heads = 4, 4 if decays else 2
    query, key = rows(key_heads, 24, dtype=dtype), rows(key_heads, 24, dtype=dtype)
    value = rows(heads, 136, dtype=dtype)
    given = {
        "g": -rows(heads, *decays, dtype=torch.float32).abs(),
        "beta": rows(heads, dtype=dtype).sigmoid(),
    }
    states = begun(heads, 24, 136)
    memory = LayerStates(None, states.clone())
    found, _ = packed(model, name, isa, memory)(
        query, key, value, **given, use_qk_l2norm_in_kernel=True
    )

    def run(chunk: slice, state: torch.Tensor) -> torch.Tensor:
        out, end = function(model, step)(
            query[:, chunk], key[:, chunk], value[:, chunk],
            **{name: each[:, chunk] for name, each in given.items()},
            initial_state=state[None], output_final_state=True, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        state.copy_(end[0])
        made: torch.Tensor = out[0]
        return made

    expected = alone(run, states)
    near(found[0], expected, dtype)
    near(memory.recurrent, states, torch.float32)


@pytest.mark.long
@each_way
@each_dtype
@pytest.mark.parametrize("size", [8, 144])
def test_state_spaces(size: int, isa: Isa | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, b, c = rows(6, 10, dtype=dtype), rows(2, size, dtype=dtype), rows(2, size, dtype=dtype)
    time, bias, skip = rows(6, dtype=dtype) - 2, torch.randn(6).to(dtype), torch.randn(6).to(dtype)
    decay = -torch.rand(6)
    states = begun(6, 10, size)
    memory = LayerStates(None, states.clone())
    found = packed("falcon_h1", "mamba2_chunk_scan", isa, memory)(
        x, time, decay, b, c, chunk_size=16, D=skip, dt_bias=bias
    )
    wide = {"D": skip.float()[:, None].expand(-1, 10), "z": None, "dt_bias": None}
    softplus = torch.nn.functional.softplus(time + bias).float()

    def run(chunk: slice, state: torch.Tensor) -> torch.Tensor:
        out = []
        for row in range(chunk.start, chunk.stop):
            step = softplus[:, row, :, None].expand(-1, -1, 10)
            decays = decay[:, None, None].expand(-1, 10, size)
            each = (t[:, row].float() for t in (b, c))
            out.append(
                function("falcon_h1", "mamba2_selective_state_update")(
                    state[None], x[:, row].float(), step, decays, *each, **wide
                )
            )
        return torch.cat(out)

    expected = alone(run, states)
    near(found[0], expected, dtype)
    near(memory.recurrent, states, dtype)


@each_way
@each_dtype
@pytest.mark.parametrize(("activation", "biased"), [("silu", True), (None, False)])
def test_convolutions(
    activation: str | None, biased: bool, isa: Isa | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, weight = rows(270, dtype=dtype), torch.randn(270, 4).to(dtype)
    bias = torch.randn(270).to(dtype) if biased else None
    states = begun(3, 270, dtype=dtype)
    memory = LayerStates(states.clone(), None)
    name = "causal_conv1d_fn"
    found = packed("falcon_h1", name, isa, memory)(x.mT, weight, bias, activation=activation).mT

    def run(chunk: slice, state: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([state, x[0, chunk]])
        own = function("falcon_h1", name)
        out: torch.Tensor = own(whole.T[None], weight, bias, activation=activation)[0].T[3:]
        state.copy_(whole[-3:])
        return out

    expected = alone(run, states)
    near(found[0], expected, dtype)
    assert memory.conv is not None
    assert torch.equal(memory.conv, states)
