"""How far two engines generated the same tokens. In bfloat16 they part where logits nearly tie."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.peers.client import RunResult
from benchmarks.workloads import Workload, common_prefix


class UnequalWorkError(Exception):
    """An engine did not generate what it was asked for."""


@dataclass(frozen=True)
class Agreement:
    """Between two greedy runs of the same requests.

    Attributes:
        equal: share of requests whose ids are all equal.
        common_prefix: mean share of a request's ids before the first difference.
    """

    equal: float
    common_prefix: float


@dataclass(frozen=True)
class ScoreAgreement:
    """Between two engines' scores of the same questions.

    Attributes:
        same_choice: share of questions whose likeliest choice is the same.
        difference: mean absolute difference of a choice's log-probability.
    """

    same_choice: float
    difference: float


def check_work(name: str, workload: Workload, result: RunResult) -> None:
    """Check that every choice has exactly the tokens asked for, and every scored prompt a score.

    Raises:
        UnequalWorkError: names the engine and the first request that differs.
    """
    if workload.starts is not None:
        _check_scores(name, workload, result)
        return
    if len(result.token_ids) != len(workload.prompts):
        raise UnequalWorkError(
            f"{name} on {workload.name}: {len(result.token_ids)} answers "
            f"to {len(workload.prompts)} requests"
        )
    for i, (choices, output) in enumerate(zip(result.token_ids, workload.outputs, strict=True)):
        lengths = [len(ids) for ids in choices]
        if lengths != [output] * workload.n:
            raise UnequalWorkError(
                f"{name} on {workload.name}, request {i}: {lengths} tokens, "
                f"not {workload.n} x {output}"
            )


def _check_scores(name: str, workload: Workload, result: RunResult) -> None:
    wrong = [i for i, (score, _) in enumerate(result.scores) if not -math.inf < score <= 0]
    if wrong or len(result.scores) != len(workload.prompts):
        raise UnequalWorkError(
            f"{name} on {workload.name}: {len(result.scores)} scores of {len(workload.prompts)} "
            f"prompts, no log-probabilities at {wrong[:3]}"
        )


def by_prompt(workload: Workload, result: RunResult) -> dict[tuple[int, ...], list[int]]:
    """The first choice of each prompt, however the requests were ordered."""
    return {
        tuple(prompt): choices[0]
        for prompt, choices in zip(workload.prompts, result.token_ids, strict=True)
    }


def compare(
    ours: dict[tuple[int, ...], list[int]], theirs: dict[tuple[int, ...], list[int]]
) -> Agreement:
    """Agreement over all prompts; both hold the same prompts."""
    shares = [common_prefix(ours[p], theirs[p]) / len(ours[p]) for p in ours]
    return Agreement(
        equal=sum(share == 1 for share in shares) / len(shares),
        common_prefix=sum(shares) / len(shares),
    )


def compare_scores(
    workload: Workload, ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]
) -> ScoreAgreement:
    """Agreement over all questions: prompts that are scored behind the same tokens."""
    assert workload.starts is not None
    questions: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, start) in enumerate(zip(workload.prompts, workload.starts, strict=True)):
        questions.setdefault(tuple(prompt[:start]), []).append(i)
    same = [
        max(choices, key=lambda i: ours[i][0]) == max(choices, key=lambda i: theirs[i][0])
        for choices in questions.values()
    ]
    differences = [abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True)]
    return ScoreAgreement(sum(same) / len(same), sum(differences) / len(differences))
