"""Proof that recurrent modules give in packed batches what they give of a sequence alone.

Two sequences with a shared beginning go through each module in five batches. They are cut at odd
places: a shared segment and what goes on from it stand in one batch, and chunks of one token beside
longer ones. The module's own code runs each sequence whole, and again with a cache that makes its
last tokens single steps, as transformers generates.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from shoal.attention.reference import ReferenceAttention
from shoal.errors import UnsupportedModelError
from shoal.model.hook import AttentionStep, StateStep, attention_step
from shoal.model.kv import KVPool
from shoal.model.recurrent import own_output
from shoal.recurrence import StateMemory, StateShape
from shoal.state_work import FROM_NOTHING, StateWork

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Largest relative distance |a - b| / |b| of a row that is taken for rounding."""

_SHARED, _FIRST, _SECOND = 71, 40, 25
"""Tokens of the shared beginning, and of each sequence behind it."""

_STEPS = 3
"""Of which so many are generated."""

_log = logging.getLogger(__name__)


def check_states(called: list[Any], states: Mapping[int, StateShape], kind: str) -> None:
    """Raise `UnsupportedModelError` unless each layer with a state called its module once."""
    layers = sorted(int(module.layer_idx) for module in called)
    if layers != sorted(states):
        raise UnsupportedModelError(
            "recurrent layers of its own",
            f"models of type {kind!r} ran {len(layers)} of {len(states)} recurrent layers as they "
            "were to in a packed batch. Use another model.",
        )


@torch.inference_mode()
def prove_states(module: nn.Module, states: Mapping[int, StateShape], kind: str) -> None:
    """Compare each recurrent module of a model in packed batches with its own code.

    Raises:
        UnsupportedModelError: one of them gives something else.
    """
    for part in module.modules():
        layer = getattr(part, "layer_idx", None)
        if type(layer) is int and layer in states and _is_recurrent(part):
            try:
                wrong = _wrong_rows(part, states[layer], module.config)
            except Exception as error:
                _log.debug("proof of states failed", exc_info=True)
                raise _refusal(kind, layer, f"{type(error).__name__}: {error}") from error
            if wrong:
                raise _refusal(kind, layer, f"{wrong} rows differ")


def _is_recurrent(part: nn.Module) -> bool:
    adapted = "forward" in vars(part)
    return adapted and any(isinstance(child, nn.Conv1d) for child in part.children())


def _wrong_rows(part: Any, shape: StateShape, config: Any) -> int:
    weight = next(part.parameters())
    device, dtype = weight.device, weight.dtype
    generator = torch.Generator().manual_seed(0)
    tokens = _SHARED + _FIRST + _SECOND
    hidden = torch.randn(tokens, config.get_text_config().hidden_size, generator=generator)
    hidden = hidden.to(device, dtype)
    shared, first, second = torch.split(hidden, [_SHARED, _FIRST, _SECOND])
    wrong = 0
    for steps in (0, _STEPS):
        found = _in_batches(part, shape, [shared, first, second], steps)
        for own, result in ((first, found[1]), (second, found[2])):
            packed = torch.cat([found[0], result]).float()
            whole = torch.cat([shared, own])[None]
            alone = own_output(part, whole) if steps == 0 else _stepwise(part, whole, config)
            expected = alone[0].float()
            # Negated so that NaN is no agreement.
            near = (packed - expected).norm(dim=1) <= TOLERANCE[dtype] * expected.norm(dim=1)
            wrong += int((~near).sum())
    return wrong


def _stepwise(part: Any, whole: torch.Tensor, config: Any) -> torch.Tensor:
    """The module's own output with a cache, the last tokens one by one."""
    cache = DynamicCache(config=config.get_text_config())
    parts = [whole[:, :-_STEPS], *torch.split(whole[:, -_STEPS:], 1, dim=1)]
    return torch.cat([own_output(part, each, cache) for each in parts], dim=1)


def _in_batches(
    part: Any, shape: StateShape, sequences: list[torch.Tensor], steps: int
) -> list[torch.Tensor]:
    """What the packed module gives of a shared beginning (0) and two sequences behind it, whose
    last `steps` tokens are generated."""
    hidden = sequences[0]
    memory = StateMemory({int(part.layer_idx): shape}, 3, hidden.dtype, hidden.device)
    # Of each chunk: whose tokens, from which to which; see the module's docstring.
    batches = [
        [(0, 0, 33)],
        [(0, 33, _SHARED), (1, 0, 1), (2, 0, 2)],
        [(1, 1, 2), (2, 2, _SECOND - 1)],
        [(1, 2, _FIRST - 1)],
        [(1, _FIRST - 1, _FIRST), (2, _SECOND - 1, _SECOND)],
    ]
    out = [torch.empty_like(each) for each in sequences]
    for chunks in batches:
        rows = torch.cat([sequences[owner][begin:end] for owner, begin, end in chunks])
        step = AttentionStep(KVPool.of(ReferenceAttention(), []), rows, None)
        work = _state_work(chunks, [_SHARED, _FIRST - steps, _SECOND - steps])
        step.states = StateStep.of(memory, work, rows.device)
        with attention_step(step):
            given = part(rows[None])[0]
        sizes = [end - begin for _, begin, end in chunks]
        for (owner, begin, end), result in zip(chunks, torch.split(given, sizes), strict=True):
            out[owner][begin:end] = result
    return out


def _state_work(chunks: list[tuple[int, int, int]], prompts: list[int]) -> StateWork:
    owners, begins, ends = (np.array(column) for column in zip(*chunks, strict=True))
    behind_shared = (begins == 0) & (owners > 0)
    source = np.where(begins > 0, owners, np.where(owners > 0, 0, FROM_NOTHING))
    level = (behind_shared & (0 in owners)).astype(np.int64)
    generated = [t >= prompts[owner] for owner, begin, end in chunks for t in range(begin, end)]
    bounds = np.append(0, np.cumsum(ends - begins))
    return StateWork(bounds, source, owners, level, np.array(generated))


def _refusal(kind: str, layer: int, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "recurrent layers that differ in packed batches",
        f"models of type {kind!r} have a recurrent layer ({layer}) that gives something else in a "
        f"packed batch than alone ({what}). Use another model.",
    )
