"""Workloads of the shape of evaluations: what they ask, what it takes, how scores are compared."""

from __future__ import annotations

import math

import pytest

from benchmarks.__main__ import by_peers
from benchmarks.agreement import UnequalWorkError, check_work, compare_scores
from benchmarks.evaluations import EVALUATIONS, GENERATED, PEERS, SCORED, make_evaluation
from benchmarks.peers.client import CONTENDERS, RunResult
from benchmarks.roofline import Work, count_work
from benchmarks.workloads import Workload

VOCABULARY = 32_000


def test_each_is_measured_beside_peers_that_can() -> None:
    assert set(EVALUATIONS) == {"mmlu-shape", "hellaswag-shape", "gsm8k-shape"} == set(PEERS)
    for name, peers in PEERS.items():
        for peer in ("shoal", *peers):
            how = CONTENDERS[peer]
            assert how.scores if name in SCORED else how.generates


def test_mmlu_shape() -> None:
    workload = make_evaluation("mmlu-shape", 2**30)  # of which no two first tokens are the same
    questions = 16 + 64 + 256
    assert len(workload.prompts) == 4 * questions
    assert {len(prompt) for prompt in workload.prompts} == {681}
    assert set(workload.starts or []) == {680}
    assert len({tuple(prompt[:600]) for prompt in workload.prompts}) == 3
    assert len({tuple(prompt[:680]) for prompt in workload.prompts}) == questions
    assert workload.generated_tokens == 0
    assert workload.counted_tokens == 4 * questions * 681
    work = count_work(workload)
    assert work.distinct_prompt_tokens == 3 * 600 + questions * 80
    assert work.head_positions == questions


def test_hellaswag_shape() -> None:
    workload = make_evaluation("hellaswag-shape", VOCABULARY)
    assert workload.starts is not None
    rests = [len(p) - s for p, s in zip(workload.prompts, workload.starts, strict=True)]
    assert len(rests) == 4 * 256
    assert (min(rests), max(rests)) == (20, 40)
    assert (min(workload.starts), max(workload.starts)) == (40, 120)


def test_gsm8k_shape() -> None:
    workload = make_evaluation("gsm8k-shape", VOCABULARY)
    assert workload.starts is None
    assert workload.outputs == [256] * 128
    assert len({tuple(prompt[:900]) for prompt in workload.prompts}) == 1
    assert list(GENERATED) == ["gsm8k-shape"]


def counted_by_hand(workload: Workload) -> Work:
    """Walk every prompt token by token; a prefix seen before costs nothing."""
    assert workload.starts is not None
    seen: set[tuple[int, ...]] = set()
    read: set[tuple[int, ...]] = set()
    pairs = 0
    for prompt, start in zip(workload.prompts, workload.starts, strict=True):
        for length in range(1, len(prompt)):
            prefix = tuple(prompt[:length])
            pairs += 0 if prefix in seen else length
            seen.add(prefix)
        read |= {tuple(prompt[:target]) for target in range(start, len(prompt))}
    return Work(sum(map(len, workload.prompts)), len(seen), 0, len(read), pairs)


@pytest.mark.parametrize("name", SCORED)
def test_work_against_a_walk(name: str) -> None:
    workload = make_evaluation(name, 64, 0.1)
    assert count_work(workload) == counted_by_hand(workload)


def test_work_where_choices_share_tokens() -> None:
    prompts = [[1, 2, 3], [1, 2, 3, 4], [1, 2, 5], [9, 2, 3], [1, 2, 3]]
    workload = Workload("odd", prompts, [0] * 5, starts=[1, 2, 2, 1, 1])
    assert count_work(workload) == counted_by_hand(workload)
    assert count_work(workload).distinct_prompt_tokens == 5  # 1, 12, 123, 9, 92
    assert workload.sorted().starts == [1, 1, 2, 2, 1]


def test_scores_are_compared_by_question() -> None:
    prompts = [[1, 2, 5], [1, 2, 6], [1, 3, 5], [1, 3, 6]]
    workload = Workload("two questions", prompts, [0] * 4, starts=[2] * 4)
    ours = [(-1.0, True), (-2.0, False), (-3.0, False), (-4.0, False)]
    theirs = [(-1.0, True), (-2.5, False), (-3.0, False), (-2.5, False)]
    found = compare_scores(workload, ours, theirs)
    assert (found.same_choice, found.difference) == (0.5, 0.5)


@pytest.mark.parametrize(
    "scores", [[], [(0.5, True)], [(math.nan, True)], [(-math.inf, False)], [(-1.0, True)] * 2]
)
def test_scores_that_are_none(scores: list[tuple[float, bool]]) -> None:
    workload = Workload("one", [[1, 2]], [0], starts=[1])
    check_work("shoal", workload, RunResult(1.0, scores=[(-1.0, True)]))
    with pytest.raises(UnequalWorkError, match="shoal on one"):
        check_work("shoal", workload, RunResult(1.0, scores=scores))


def test_workloads_with_the_same_peers_run_together() -> None:
    names = ["none", "mmlu-shape", "gsm8k-shape", "tree", "hellaswag-shape"]
    assert by_peers(names, None) == {
        ("vllm", "vllm-sorted"): ["none", "tree"],
        ("vllm-harness", "vllm-expert"): ["mmlu-shape"],
        ("vllm-harness",): ["gsm8k-shape", "hellaswag-shape"],
    }
    assert by_peers(names, []) == {(): names}
