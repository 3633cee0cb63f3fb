"""Pieces by ranges: families whole, work even, and a sample that suffices."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shoal.planner.range_pieces import PromptSample, piece_bounds, piece_of


def families(sizes: list[int]) -> list[bytes]:
    random = np.random.default_rng(3)
    prefixes = [random.bytes(40) for _ in sizes]
    prompts = [
        prefix + random.bytes(8)
        for prefix, n in zip(prefixes, sizes, strict=True)
        for _ in range(n)
    ]
    return [prompts[i] for i in random.permutation(len(prompts))]


def sample_of(keys: list[bytes], rate: float = 1.0) -> PromptSample:
    length = np.array([len(key) for key in keys], dtype=np.int64)
    return PromptSample(keys, length, np.full(len(keys), 8), rate)


def test_families_stay_whole_and_pieces_are_even() -> None:
    keys = families([20] * 100)
    pieces = piece_of(keys, piece_bounds(sample_of(keys[:500], 0.25), 5))
    homes: dict[bytes, set[int]] = {}
    for key, piece in zip(keys, pieces.tolist(), strict=True):
        homes.setdefault(key[:40], set()).add(piece)
    assert all(len(pieces) == 1 for pieces in homes.values())
    counts = Counter(pieces.tolist())
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert max(counts.values()) < 1.35 * len(keys) / 5


def test_a_family_larger_than_a_piece_is_cut_where_it_branches() -> None:
    inner = families([25] * 40)
    keys = [b"the same for all" + key for key in inner]
    pieces = piece_of(keys, piece_bounds(sample_of(keys), 4))
    homes: dict[bytes, set[int]] = {}
    for key, piece in zip(keys, pieces.tolist(), strict=True):
        homes.setdefault(key[:56], set()).add(piece)
    assert all(len(pieces) == 1 for pieces in homes.values())
    assert max(Counter(pieces.tolist()).values()) < 1.35 * len(keys) / 4


def test_pieces_are_ranges() -> None:
    keys = families([3, 50, 7, 1, 1, 200])
    bounds = piece_bounds(sample_of(keys), 4)
    assert bounds == sorted(bounds)
    numbers = piece_of(sorted(keys), bounds)
    assert (np.diff(numbers) >= 0).all()


def test_equal_prompts_that_fill_several_pieces_are_dealt() -> None:
    keys = [b"same"] * 90 + [b"a", b"z"]
    pieces = piece_of(keys, piece_bounds(sample_of(keys), 4))
    assert max(Counter(pieces.tolist()).values()) <= 60


def test_long_answers_count() -> None:
    keys = sorted(families([1] * 100))
    output = np.where(np.arange(100) < 20, 4000, 0)
    sample = PromptSample(keys, np.full(100, 48), output)
    pieces = piece_of(keys, piece_bounds(sample, 2))
    assert 8 <= np.count_nonzero(pieces == 0) <= 12


@pytest.mark.parametrize("keys", [[], [b""], [b"one"]])
def test_few_prompts(keys: list[bytes]) -> None:
    assert piece_bounds(sample_of(keys), 3) == []
    assert piece_of(keys, []).tolist() == [0] * len(keys)
