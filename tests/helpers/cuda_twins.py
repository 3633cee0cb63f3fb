"""The same model on two pools: eager on one, replayed on the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from shoal.attention.triton.buffers import Capacity
from shoal.cuda.graphs import GraphedForward, scratch_blocks
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.cuda_models import Inputs, pool, tiny
from tests.helpers.cuda_standins import FixedReference, TapeRecorder
from tests.helpers.models import VOCABULARY

SIZES = (1, 2, 4, 8, 16, 24)
BLOCKS = 40
NOISE = 1e-4


class Twins:
    """A model on two pools with the same random contents: eager on one, graphs on the other."""

    def __init__(
        self,
        seed: int = 0,
        fail_from: int | None = None,
        backend: Any = None,
        sizes: tuple[int, ...] = SIZES,
        model: LoadedModel | None = None,
    ) -> None:
        """`model`: another than the tiny one, of the same shape."""
        self.model = model or tiny()[0]
        self.scratch = scratch_blocks(sizes, BLOCK_SIZE)
        self.backend = backend or FixedReference()
        self.eager, self.replayed = (
            pool(self.model, self.backend, BLOCKS + self.scratch) for _ in range(2)
        )
        generator = torch.Generator().manual_seed(seed)
        for ours, theirs in self.parts():
            theirs.copy_(ours.normal_(generator=generator))
        self.recorder = TapeRecorder(fail_from=fail_from)
        self.made: list[Any] = []
        slots = torch.arange(BLOCKS * BLOCK_SIZE, (BLOCKS + self.scratch) * BLOCK_SIZE)
        with torch.inference_mode():
            self.graphs = GraphedForward(
                self.model,
                self.replayed,
                slots,
                self.recorder,
                self.fixed,
                torch.empty(1, VOCABULARY),
                sizes,
            )

    def fixed(self, rows: int) -> Any:
        capacity = Capacity(rows=rows, blocks=BLOCKS)
        self.made.append(self.backend.fixed(capacity, torch.device("cpu")))
        return self.made[-1]

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Keys, then values, of each layer, of both pools."""
        return zip(parts(self.eager), parts(self.replayed), strict=True)

    def run(self, inputs: Inputs) -> torch.Tensor | None:
        with torch.inference_mode():
            return self.graphs.run(
                inputs.token_ids, inputs.positions, inputs.slots, inputs.work, inputs.logit_rows
            )

    def compare(self, inputs: Inputs) -> None:
        """One batch on both: the same logits, and the same KV wherever a request may look."""
        expected = inputs.eager(self.model, self.eager)
        found = self.run(inputs)
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=NOISE, atol=NOISE)
        for ours, theirs in self.parts():
            torch.testing.assert_close(owned(theirs), owned(ours), rtol=NOISE, atol=NOISE)


def parts(kv: KVPool) -> list[torch.Tensor]:
    """Keys and values of each layer of the tiny model."""
    layers = [kv[layer] for layer in range(len(tiny()[0].layers))]
    return [part for layer in layers for part in (layer.keys, layer.values)]


def owned(part: torch.Tensor) -> torch.Tensor:
    """All but scratch, of a layout by slots or by blocks."""
    return part[:, : BLOCKS * BLOCK_SIZE] if part.ndim == 3 else part[:BLOCKS]
