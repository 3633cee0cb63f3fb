"""Scores of prompts: as log-softmax says, however many rows are worked on at once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import shoal.sampling.logprobs as logprobs_module
from shoal.cuda.transfers import DirectStage
from shoal.errors import InvalidLogitsError
from shoal.kernels import load_kernels
from shoal.sampling.host_scoring import host_scores
from shoal.sampling.prompt_scoring import PromptScorer
from shoal.sampling.results import PromptScores
from shoal.scheduler import ScoredRange

VOCAB = 120
NONE = np.zeros(0, dtype=np.int32)


Score = Callable[[torch.Tensor, list[ScoredRange]], list[PromptScores]]


def in_torch(logits: torch.Tensor, ranges: list[ScoredRange]) -> list[PromptScores]:
    rows = sum(each.num_rows for each in ranges)
    batch: Any = SimpleNamespace(scored=tuple(ranges), first_scored=len(logits) - rows)
    scorer = PromptScorer(VOCAB)
    task = scorer.plan(batch, DirectStage())
    return scorer.collect(task, [part.numpy() for part in scorer.score(task, logits)])


def in_kernels(logits: torch.Tensor, ranges: list[ScoredRange]) -> list[PromptScores]:
    rows = sum(each.num_rows for each in ranges)
    if (kernels := load_kernels()) is None:
        pytest.skip("the C++ kernels are not built")
    return host_scores(ranges, logits[len(logits) - rows :], kernels)


@pytest.mark.parametrize(
    ("rows", "scored"), [(1, in_torch), (3, in_torch), (99, in_torch), (99, in_kernels)]
)
def test_ranges_are_scored_in_pieces(
    monkeypatch: pytest.MonkeyPatch, rows: int, scored: Score
) -> None:
    rng = np.random.default_rng(0)
    logits = torch.randn(20, VOCAB, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    tokens = rng.integers(0, VOCAB, 20).astype(np.int32)
    few, many = (np.sort(rng.permutation(VOCAB)[:n]).astype(np.int32) for n in (5, 60))
    ranges = [
        ScoredRange(False, 7, 4, 0, tokens[2:9], NONE, 3),
        ScoredRange(True, 3, 0, 7, tokens[9:11], few, 1),
        ScoredRange(True, 4, 8, 10, NONE, many, 0),
        ScoredRange(True, 5, 0, 11, NONE, few[:1], 2),
        ScoredRange(True, 6, 0, 12, tokens[14:17], few[1:4], 2),
    ]
    monkeypatch.setattr(logprobs_module, "MAX_ELEMENTS", rows * VOCAB)
    found = scored(logits, ranges)
    assert [(f.shared, f.owner, f.first) for f in found] == [
        (r.shared, r.owner, r.first) for r in ranges
    ]
    oracle = torch.log_softmax(logits[-16:].double(), dim=-1).float()
    for part, asked in zip(found, ranges, strict=True):
        assert len(part.rows) == asked.num_rows
        assert (part.children == asked.children).all()
        for index in range(asked.num_rows):
            row = oracle[asked.row + index]
            best = sorted(range(VOCAB), key=lambda t: (-float(row[t]), t))[: asked.num_best]
            assert part.rows.top_ids[index].tolist() == best
            np.testing.assert_allclose(part.rows.top_logprobs[index], row[best], atol=1e-5)
            pairs = (
                [(part.rows.logprob[index], part.rows.rank[index], asked.targets[index])]
                if (index < len(asked.targets))
                else list(zip(part.child_logprob, part.child_rank, asked.children, strict=True))
            )
            for logprob, rank, token in pairs:
                assert logprob == pytest.approx(float(row[token]), abs=1e-5)
                assert rank == int((row >= row[token]).sum())


@pytest.mark.parametrize("scored", [in_torch, in_kernels])
def test_logits_that_are_not_numbers_score_nothing(scored: Score) -> None:
    logits = torch.randn(4, VOCAB)
    logits[2, 5] = float("nan")
    ranges = [
        ScoredRange(False, 8, 0, 0, np.array([1], dtype=np.int32), NONE, 0),
        ScoredRange(False, 9, 0, 1, np.array([1, 2, 3], dtype=np.int32), NONE, 0),
    ]
    with pytest.raises(InvalidLogitsError) as caught:
        scored(logits, ranges)
    assert caught.value.sequences == (9,)
