"""Whether a model's forward can be replayed as a graph, tried before any run.

Three things speak against it: an operation that reads back (mixtures of experts that loop over the
experts that were hit), a capture that fails, and logits that are not those of the eager forward. In
each case the model runs without graphs, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shoal.cuda.capture import Recorder
from shoal.cuda.graphs import GraphableWork, GraphedForward, tiers
from shoal.cuda.readback import watch_readbacks
from shoal.errors import InternalError
from shoal.machine.largest_batch import chunks_behind_segments
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionStep, attention_step
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest median over the rows of |replayed - eager| / |eager| taken for rounding: other numbers of
rows may be multiplied by other kernels. A graph that reads the wrong place is off by about 1."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    """Rows of prompts, the first `rows` of the pool's slots."""

    rows: int
    token_ids: torch.Tensor
    logit_rows: torch.Tensor

    @classmethod
    def random(cls, rows: int, description: ModelDescription, seed: int) -> _Batch:
        """A batch whose every other row's logits are asked for, last row first."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(description.vocab_size, (rows,), generator=generator)
        wanted = torch.arange(rows - 1, -1, -2)
        return cls(rows, ids.to(description.device), wanted.to(description.device))


class _Trial:
    """One model on one pool, run both ways."""

    def __init__(self, model: LoadedModel, kv: KVPool, description: ModelDescription) -> None:
        self._model, self._kv, self._description = model, kv, description

    @torch.inference_mode()
    def run(
        self,
        recorder: Recorder,
        fixed: Callable[[int], GraphableWork],
        num_blocks: int,
        sizes: tuple[int, ...],
    ) -> GraphedForward | str:
        """See `graphed_forward`; what speaks against graphs where there are none."""
        # First with all the padding a bucket can have, then full and with other tokens: a replay.
        below = dict(zip(sizes, (0, *sizes), strict=False))
        rows = [count for size in tiers(sizes) for count in (below[size] + 1, size)]
        batches = [_Batch.random(count, self._description, seed) for seed, count in enumerate(rows)]
        with watch_readbacks() as readbacks:
            like = self.eager(batches[0])
        if readbacks:
            return f"its forward reads back from the device ({sorted(set(readbacks))[0]})"
        graphs = GraphedForward(
            self._model, self._kv, self._scratch(num_blocks), recorder, fixed, like, sizes
        )
        for batch in batches:
            expected = self.eager(batch)
            self._forget()
            found = self.replayed(graphs, batch)
            if found is None:
                return f"a batch of {batch.rows} rows was not captured"
            if not _close(found, expected):
                return "replayed logits differ from eager ones"
        return graphs

    def eager(self, batch: _Batch) -> torch.Tensor:
        """Logits as they are without graphs."""
        work, (positions, slots) = chunks_behind_segments(batch.rows), self._places(batch)
        prepared = self._kv.backend.prepare(work, self._description.device)
        with attention_step(AttentionStep(self._kv, slots, prepared)):
            return self._model.logits(batch.token_ids, positions, batch.logit_rows)

    def replayed(self, graphs: GraphedForward, batch: _Batch) -> torch.Tensor | None:
        """Logits as a graph gives them; None where it does not take the batch."""
        work, (positions, slots) = chunks_behind_segments(batch.rows), self._places(batch)
        return graphs.run(batch.token_ids, positions, slots, work, batch.logit_rows)

    def _scratch(self, num_blocks: int) -> torch.Tensor:
        shape = self._kv[0].shape
        first, last = (blocks * shape.block_size for blocks in (num_blocks, shape.num_blocks))
        return torch.arange(first, last, device=self._description.device)

    def _forget(self) -> None:
        """Zero the pool, so that what a graph fails to store is missed."""
        for layer in range(len(self._model.layers)):
            self._kv[layer].keys.zero_()
            self._kv[layer].values.zero_()

    def _places(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(batch.rows, device=self._description.device)
        return rows % self._description.max_model_len, rows


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    distance = (found.float() - expected.float()).norm(dim=1)
    relative = distance / expected.float().norm(dim=1).clamp(min=1e-30)
    # NaN is not close.
    return bool(relative.median() <= TOLERANCE[expected.dtype])


def graphed_forward(
    model: LoadedModel,
    kv: KVPool,
    description: ModelDescription,
    recorder: Recorder,
    fixed: Callable[[int], GraphableWork],
    num_blocks: int,
    sizes: tuple[int, ...],
) -> GraphedForward | None:
    """The model's forward as graphs, a few buckets captured; None where that cannot be.

    Overwrites the KV pool.

    Args:
        kv: `num_blocks` blocks, enough for the largest bucket's rows, and scratch blocks behind.
        fixed: makes attention buffers for so many rows.
        sizes: the buckets, ascending.
    """
    trial = _Trial(model, kv, description)
    try:
        found = trial.run(recorder, fixed, num_blocks, sizes)
    except (RuntimeError, InternalError) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if isinstance(found, GraphedForward):
        return found
    _log.warning("the model runs without CUDA graphs, small batches are slower: %s", found)
    return None
