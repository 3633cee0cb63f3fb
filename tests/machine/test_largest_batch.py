"""The probing batch asks for as much as any batch of its size can."""

from __future__ import annotations

import pytest
import torch

from shoal.attention.reference import ReferenceAttention
from shoal.executor.host_side import HostSide
from shoal.machine.largest_batch import (
    CHUNK,
    SHARED,
    blocks_for_probe,
    chunks_behind_segments,
    probe,
)
from shoal.model.load import LoadedModel
from shoal.sampling.results import PromptScores
from shoal.sampling.sampler import Sampler
from shoal.scheduler import BLOCK_SIZE, TokenBatch
from tests.helpers.cuda_models import pool, tiny


@pytest.mark.parametrize("rows", [1, 31, CHUNK, CHUNK + 1, 1300])
def test_every_row_attends_to_its_own_and_to_the_shared_segments(rows: int) -> None:
    work = chunks_behind_segments(rows)
    shared, own = slice(0, SHARED), slice(SHARED, None)
    assert work.num_rows == rows
    assert (work.row_first[shared] == 0).all()
    assert (work.row_last[shared] == rows).all()
    assert not work.causal[shared].any()
    assert work.causal[own].all()
    slots = [slot for item in range(SHARED, len(work)) for slot in work.slots(item)]
    assert slots == list(range(rows))
    assert work.blocks.max() < blocks_for_probe(rows) == -(-rows // BLOCK_SIZE)
    for item in range(SHARED):
        assert len(work.slots(item)) == min(rows, CHUNK)


@pytest.mark.parametrize("rows", [1, 2, 40, 300])
def test_all_rows_are_sampled_with_everything_there_is(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, description = tiny()
    asked: list[tuple[int, ...]] = []
    sampled: list[int] = []
    scored: list[int] = []
    original, choose, listed = LoadedModel.logits, Sampler.sample, HostSide._score

    def logits(self: LoadedModel, *arguments: torch.Tensor) -> torch.Tensor:
        found = original(self, *arguments)
        asked.append(tuple(found.shape))
        return found

    def sample(self: Sampler, found: object, *arguments: object) -> object:
        sampled.append(len(arguments[0]))  # type: ignore[arg-type]
        return choose(self, found, *arguments)  # type: ignore[arg-type]

    def score(self: HostSide, batch: TokenBatch, found: torch.Tensor) -> list[PromptScores]:
        scored.append(sum(each.num_rows for each in batch.scored))
        return listed(self, batch, found)

    monkeypatch.setattr(HostSide, "_score", score)
    monkeypatch.setattr(LoadedModel, "logits", logits)
    monkeypatch.setattr(Sampler, "sample", sample)
    probe(model, pool(model, ReferenceAttention(), blocks_for_probe(rows)), description, rows)
    assert sampled == scored == [rows]
    assert asked == [(rows, description.vocab_size)]
