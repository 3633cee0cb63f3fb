"""A model's own calls of its layers in a small token batch, to try replacements with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from shoal.attention import select_backend
from shoal.model.hook import AttentionProbe, AttentionStep, WantedRows, attention_step
from shoal.model.kv import KVPool
from shoal.scheduler import BLOCK_SIZE
from shoal.types import Int64Array
from shoal.work import SegmentWork

_TOKENS = BLOCK_SIZE + 5
"""Tokens of the trial batch: two blocks, the second not full."""


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

    def run(self, module: nn.Module, hidden: torch.Tensor) -> Any:
        """Call `module` the same way with other hidden states."""
        if self.args:
            return module(hidden, *self.args[1:], **self.keywords)
        return module(**{**self.keywords, "hidden_states": hidden})


class Trial:
    """A batch of one short sequence: its attention step, and how modules are called in it.

    Attributes:
        some_rows: int64, a few of the batch's rows.
        scales: the factor on the scores, by attention layer.
        calls: how each module asked for was called.
    """

    def __init__(
        self,
        layers: list[tuple[int, int, int]],
        vocabulary: int,
        max_tokens: int,
        dtype: torch.dtype,
    ) -> None:
        """`layers`: (kv_heads, key_dim, value_dim) of each."""
        self.tokens = min(_TOKENS, max_tokens)
        cpu, blocks = torch.device("cpu"), np.array([1, 0], np.int32)
        backend = select_backend(dtype, cpu, layers)
        work = SegmentWork(
            num_rows=self.tokens,
            row_first=np.array([0], np.int32),
            row_last=np.array([self.tokens], np.int32),
            kv_tokens=np.array([self.tokens], np.int32),
            causal=np.array([True]),
            block_offsets=np.array([0, len(blocks)], np.int64),
            blocks=blocks,
            block_size=BLOCK_SIZE,
        )
        kv = KVPool(backend, layers, len(blocks), BLOCK_SIZE, dtype, cpu)
        slots = torch.from_numpy(work.slots(0))
        self._work = work
        self._step = AttentionStep(kv, slots, backend.prepare(work, cpu))
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(vocabulary, (self.tokens,), generator=generator)
        self.some_rows: Int64Array = np.unique([1 % self.tokens, self.tokens // 2, self.tokens - 1])
        self.scales: dict[int, float] = {}
        self.calls: dict[nn.Module, Call] = {}

    def step(self) -> Any:
        """A context in which attention layers see the batch."""
        return attention_step(self._step)

    def record(self, modules: Iterable[nn.Module], forward: Callable[..., torch.Tensor]) -> None:
        """Run the model once and keep how it calls `modules`, and the scales.

        Args:
            forward: logits of token ids, positions and the rows wanted.
        """
        probe = AttentionProbe()
        with attention_step(probe), self._recording(modules):
            forward(*self._inputs())
        self.scales = dict(zip(probe.layers, probe.scales, strict=True))

    def run(self, forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Logits of all rows, with real attention."""
        with self.step():
            return forward(*self._inputs())

    def run_some(self, forward: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Logits of `some_rows`, of a last layer that computes no others."""
        rows = self.some_rows
        backend = self._step.kv.backend
        wanted = WantedRows(
            torch.from_numpy(rows), backend.prepare(self._work.only(rows), torch.device("cpu"))
        )
        ids, positions, _ = self._inputs()
        with attention_step(replace(self._step, wanted=wanted)):
            return forward(ids, positions, None)

    def _inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.arange(self.tokens)
        return self._ids, rows, rows

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
