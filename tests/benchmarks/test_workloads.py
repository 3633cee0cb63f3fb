from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.workloads import SPECS, common_prefix, common_prefixes, make_workload, scaled

VOCABULARY = 32_000
REQUESTS = {
    "shared-2k": 256,
    "wide-2k": 256,
    "tight-2k": 512,
    "none": 256,
    "tree": 256,
    "mixed": 192,
    "n-best": 16,
}
PROMPT_TOKENS = {
    "shared-2k": {2112},
    "wide-2k": {2112},
    "tight-2k": {2112},
    "tree": {1600},
    "mixed": {288, 2304},
    "n-best": {512},
}
GENERATED = {
    "shared-2k": 256 * 64,
    "wide-2k": 256 * 64,
    "tight-2k": 512 * 32,
    "tree": 256 * 64,
    "mixed": 96 * 256 + 96 * 8,
    "n-best": 16 * 16 * 128,
}


def prefix_counts(prompts: list[list[int]], length: int) -> list[int]:
    """Requests behind each distinct prefix of a length."""
    prefixes = np.array([prompt[:length] for prompt in prompts])
    return np.unique(prefixes, axis=0, return_counts=True)[1].tolist()


def test_all_seven_are_here() -> None:
    assert set(SPECS) == set(REQUESTS)


@pytest.mark.parametrize("name", SPECS)
def test_counts_and_lengths(name: str) -> None:
    workload = make_workload(name, VOCABULARY)
    assert len(workload.prompts) == len(workload.outputs) == REQUESTS[name]
    if name == "none":
        lengths = [len(prompt) for prompt in workload.prompts]
        assert 100 <= min(lengths) < 110
        assert 500 < max(lengths) <= 512
        assert 32 <= min(workload.outputs) < 36
        assert 124 < max(workload.outputs) <= 128
    else:
        assert {len(prompt) for prompt in workload.prompts} == PROMPT_TOKENS[name]
        assert workload.generated_tokens == GENERATED[name]
    assert all(min(prompt) >= 10 and max(prompt) < VOCABULARY for prompt in workload.prompts)


@pytest.mark.parametrize(
    ("name", "length", "counts"),
    [
        ("shared-2k", 2048, [32] * 8),
        ("wide-2k", 2048, [8] * 32),
        ("tight-2k", 2048, [8] * 64),
        ("none", 1, [1] * 256),
        ("tree", 1024, [64] * 4),
        ("tree", 1536, [8] * 32),
        ("mixed", 256, [12] * 16),
    ],
)
def test_requests_behind_each_prefix(name: str, length: int, counts: list[int]) -> None:
    # From a vocabulary this large, the first tokens of unrelated prompts differ.
    prompts = make_workload(name, 2**30).prompts
    assert prefix_counts(prompts, length) == counts
    assert max(prefix_counts(prompts, min(map(len, prompts)))) == (1 if name != "mixed" else 12)


def test_mixed_interleaves_its_two_kinds() -> None:
    outputs = make_workload("mixed", VOCABULARY).outputs
    assert {256, 8} == set(outputs)
    assert sum(a != b for a, b in pairwise(outputs)) > 60


def test_the_same_each_time_and_another_with_another_seed() -> None:
    first = make_workload("none", VOCABULARY)
    assert make_workload("none", VOCABULARY) == first
    assert make_workload("none", VOCABULARY, seed=1) != first
    assert first.prompts[0][:4] == [7448, 6146, 31921, 20944]


def test_sorted_keeps_each_request_whole() -> None:
    workload = make_workload("none", VOCABULARY, 0.2)
    ordered = workload.sorted()
    assert ordered.prompts == sorted(workload.prompts)
    assert ordered.prompts != workload.prompts
    pairs = sorted(zip(workload.prompts, workload.outputs, strict=True))
    assert list(zip(ordered.prompts, ordered.outputs, strict=True)) == pairs


def test_scale() -> None:
    workload = make_workload("n-best", VOCABULARY, 0.25)
    assert (len(workload.prompts), len(workload.prompts[0]), workload.n) == (4, 128, 4)
    assert workload.outputs == [32] * 4
    assert [scaled(0, 0.5), scaled(1, 0.01), scaled(8, 0.5)] == [0, 1, 4]


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([1], [2]) == 0
    assert common_prefixes([[1, 2], [1, 2, 3], [1, 3]]) == [2, 1]
