"""A model's own calls of its layers in a small packed batch, to try replacements with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from shoal.attention import AttentionBackend, AttentionKind, select_backend
from shoal.model.description import ModelDescription
from shoal.model.hook import (
    AttentionProbe,
    AttentionStep,
    StateStep,
    WantedRows,
    attention_step,
)
from shoal.model.kv import KVPool
from shoal.model.pieces import Pieces
from shoal.model.rotary import with_lengths
from shoal.recurrence import StateMemory
from shoal.scheduler import BLOCK_SIZE
from shoal.state_work import StateWork
from shoal.types import Int64Array


@dataclass(frozen=True)
class Call:
    """Arguments a module was called with."""

    args: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states among them, [1, T, hidden]."""
        found: torch.Tensor = self.args[0] if self.args else self.keywords["hidden_states"]
        return found

    def run(self, module: Callable[..., Any], hidden: torch.Tensor) -> Any:
        """Call `module` the same way with other hidden states."""
        if self.args:
            return module(hidden, *self.args[1:], **self.keywords)
        return module(**{**self.keywords, "hidden_states": hidden})

    @property
    def elsewhere(self) -> Call:
        """The same, but for whole numbers, such as positions: they are 0."""
        args = tuple(map(_zero_if_whole, self.args))
        return Call(args, {name: _zero_if_whole(x) for name, x in self.keywords.items()})


def _zero_if_whole(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex():
        return torch.zeros_like(value)
    return value


class Trial:
    """A batch of pieces at every position there may be: its attention step, and how modules are
    called in it.

    Attributes:
        pieces: the batch.
        some_rows: int64, a few of the batch's rows, one at least of each piece.
        attending: the attention modules, with their layers.
        scales: the factor on the scores, by attention layer.
        kinds: what else each asks for, within the longest a sequence may be.
        calls: how each module asked for was called.
    """

    def __init__(self, layers: list[tuple[int, int, int]], description: ModelDescription) -> None:
        """`layers`: (kv_heads, key_dim, value_dim) of each."""
        self._device, dtype = description.device, description.dtype
        self.pieces = Pieces.of(description)
        backend = select_backend(dtype, self._device, layers)
        kv = KVPool(backend, layers, self.pieces.num_blocks, BLOCK_SIZE, dtype, self._device)
        work, slots = self.pieces.work, self.pieces.slots.to(self._device)
        self._step = AttentionStep(kv, slots, backend.prepare(work, self._device))
        if description.states:
            count = len(self.pieces.work)
            states = StateWork.apart(self.pieces.bounds, count)
            memory = StateMemory(description.states, count, dtype, self._device)
            self._step.states = StateStep.of(memory, states, self._device)
        middles = [(rows.start + rows.stop) // 2 for rows in self.pieces.rows()]
        self.some_rows: Int64Array = np.unique([*middles, work.num_rows - 1])
        self.attending: dict[nn.Module, int] = {}
        self.scales: dict[int, float] = {}
        self.kinds: dict[int, AttentionKind] = {}
        self._longest = description.max_model_len
        self._by_length = description.length_switch is not None
        self.calls: dict[nn.Module, Call] = {}

    def step(self) -> Any:
        """A context in which attention layers see the batch."""
        return attention_step(self._step)

    def step_with(self, change: Callable[[Any], AttentionBackend]) -> Any:
        """The same, with another backend made of the batch's, which has the same layout."""
        kv = self._step.kv
        backend = change(kv.backend)
        prepared = backend.prepare(self.pieces.work, self._device)
        step = AttentionStep(kv.with_backend(backend), self._step.slots, prepared)
        return attention_step(step)

    def record(self, modules: Iterable[nn.Module], forward: Callable[..., torch.Tensor]) -> None:
        """Run the model once and keep how it calls `modules`, and the scales.

        Args:
            forward: logits of token ids, positions and the rows wanted.
        """
        probe = AttentionProbe()
        with attention_step(probe), self._recording(modules):
            forward(*self._inputs())
        self.attending = dict(zip(probe.modules, probe.layers, strict=True))
        self.scales = dict(zip(probe.layers, probe.scales, strict=True))
        kinds = [kind.within(self._longest) for kind in probe.kinds]
        self.kinds = dict(zip(probe.layers, kinds, strict=True))

    def run(self, forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Logits of all rows, with real attention."""
        with self.step():
            return forward(*self._inputs())

    def run_some(self, forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Logits of `some_rows`, of a last layer that computes no others."""
        rows = self.some_rows
        backend = self._step.kv.backend
        wanted = WantedRows(
            torch.from_numpy(rows).to(self._device),
            backend.prepare(self.pieces.work.only(rows), self._device),
        )
        ids, positions, _ = self._inputs()
        with attention_step(replace(self._step, wanted=wanted)):
            return forward(ids, positions, None)

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pieces, device = self.pieces, self._device
        rows = torch.arange(pieces.work.num_rows, device=device)
        positions = pieces.positions
        if self._by_length:
            positions = with_lengths(positions, pieces.lengths.long())
        return pieces.token_ids.to(device), positions.to(device), rows

    @contextmanager
    def _recording(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        def keep(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self.calls[module] = Call(args, keywords)

        handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
