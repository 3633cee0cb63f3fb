"""Scores of prompts do not depend on how many rows are worked on at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import shoal.sampling.logprobs as logprobs_module
from shoal.cuda.transfers import DirectStage
from shoal.sampling.logprobs import token_logprobs
from shoal.sampling.prompt_scoring import PromptScorer
from shoal.scheduler import ScoredRange
from shoal.types import RequestParams

VOCAB = 40


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_ranges_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    logits = torch.randn(20, VOCAB, generator=torch.Generator().manual_seed(0))
    tokens = np.random.default_rng(0).integers(0, VOCAB, 20).astype(np.int32)
    params = RequestParams(prompt_logprobs=2)
    table: Any = SimpleNamespace(sampling=lambda request: (params, RequestParams())[request])
    plan: Any = SimpleNamespace(sequence_request=np.array([1, 0]))
    # Sequence 1 is of the request that asks for two alternatives.
    ranges = ScoredRange(1, 5, 2, tokens[2:9]), ScoredRange(0, 1, 12, tokens[12:16])
    batch: Any = SimpleNamespace(scored=ranges)
    expected = token_logprobs(logits, tokens, np.where(np.arange(20) < 10, 2, 0))

    monkeypatch.setattr(logprobs_module, "MAX_ELEMENTS", rows * VOCAB)
    scorer = PromptScorer(table, VOCAB)
    pieces = scorer.plan(batch, plan, DirectStage())
    assert max(len(piece.targets) for piece in pieces) == min(rows, 7)
    arrays = [part.numpy() for part in scorer.score(pieces, logits)]
    found: dict[int, dict[int, Any]] = {0: {}, 1: {}}
    for part in scorer.collect(pieces, arrays):
        found[part.sequence].update(enumerate(part.logprobs, part.first))
    assert found[1] == dict(enumerate(expected[2:9], 5))
    assert found[0] == dict(enumerate(expected[12:16], 1))
