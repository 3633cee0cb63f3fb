"""A tiny model with a KV pool, and random token batches for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from shoal.attention import AttentionBackend
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionStep, attention_step
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.scheduler import BLOCK_SIZE
from shoal.work import SegmentWork
from tests.cuda.test_readback import load
from tests.helpers.models import VOCABULARY, save_model


@cache
def tiny(architecture: str = "llama", **keywords: object) -> tuple[LoadedModel, ModelDescription]:
    """A model with no module fused, as it is on CUDA."""
    folder = Path(mkdtemp()) / architecture
    return load(save_model(folder, architecture), **keywords)


def pool(model: LoadedModel, backend: AttentionBackend, num_blocks: int) -> KVPool:
    cpu = torch.device("cpu")
    return KVPool(backend, model.layers, num_blocks, BLOCK_SIZE, torch.float32, cpu)


@dataclass(frozen=True)
class Inputs:
    """What a forward is given."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    work: SegmentWork
    logit_rows: torch.Tensor

    def eager(self, model: LoadedModel, kv: KVPool) -> torch.Tensor:
        prepared = kv.backend.prepare(self.work, self.slots.device)
        with torch.inference_mode(), attention_step(AttentionStep(kv, self.slots, prepared)):
            return model.logits(self.token_ids, self.positions, self.logit_rows)


def random_inputs(rng: np.random.Generator, rows: int, num_blocks: int) -> Inputs:
    """Decodes and prefill chunks of some sequences, most behind a shared segment, in any blocks."""
    free = rng.permutation(num_blocks).astype(np.int32)
    shared_tokens = int(rng.integers(1, 2 * BLOCK_SIZE))
    shared, free = np.split(free, [-(-shared_tokens // BLOCK_SIZE)])
    sharers = int(rng.integers(0, rows + 1))
    first, last, tokens, starts, lists, slots, positions = [], [], [], [], [], [], []
    row = 0
    while row < rows:
        count = int(rng.integers(1, rows - row + 1)) if rng.random() < 0.3 else 1
        own = count + int(rng.integers(0, 20))
        blocks, free = np.split(free, [-(-own // BLOCK_SIZE)])
        assert len(blocks) * BLOCK_SIZE >= own, "the pool of this test is too small"
        place = np.arange(own - count, own)
        slots.append(blocks[place // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + place % BLOCK_SIZE)
        positions.append(shared_tokens + place)
        starts.append(shared_tokens)
        first.append(row), last.append(row + count), tokens.append(own), lists.append(blocks)
        row += count
    if sharers:
        starts.append(0)
        first.append(0), last.append(sharers), tokens.append(shared_tokens), lists.append(shared)
    work = SegmentWork(
        num_rows=rows,
        row_first=np.array(first, np.int32),
        row_last=np.array(last, np.int32),
        kv_tokens=np.array(tokens, np.int32),
        starts=np.array(starts, np.int32),
        causal=np.arange(len(first)) < len(first) - bool(sharers),
        block_offsets=np.concatenate([[0], np.cumsum([len(blocks) for blocks in lists])]),
        blocks=np.concatenate(lists),
        block_size=BLOCK_SIZE,
    )
    wanted = rng.integers(0, rows, int(rng.integers(0, rows + 1)))
    return Inputs(
        token_ids=torch.from_numpy(rng.integers(0, VOCABULARY, rows)),
        positions=torch.from_numpy(np.concatenate(positions)),
        slots=torch.from_numpy(np.concatenate(slots)),
        work=work,
        logit_rows=torch.from_numpy(wanted),
    )
