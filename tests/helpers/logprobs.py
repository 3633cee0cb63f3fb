"""Logprobs of two runs, as `RequestOutput` has them."""

from __future__ import annotations

from typing import Any

import pytest


def same_logprobs(found: Any, expected: Any) -> None:
    """Of the same tokens in the same order, and near each other."""
    assert (found is None) == (expected is None)
    for entries, others in zip(found or (), expected or (), strict=True):
        assert list(entries or ()) == list(others or ())
        for token, entry in (entries or {}).items():
            assert entry.logprob == pytest.approx(others[token].logprob, abs=1e-4)
            assert entry.rank == others[token].rank
