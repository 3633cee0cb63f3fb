"""Workloads of the shape of well-known evaluations, in the order in which a harness asks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads import (
    SEED,
    SPECIAL_IDS,
    Group,
    Lengths,
    Spec,
    Tokens,
    Workload,
    make_generation,
    scaled,
)


@dataclass(frozen=True)
class Questions:
    """Questions whose choices are scored, behind the examples of their subject.

    Attributes:
        shows: what the workload shows.
        subjects: of each, how many questions it has.
        examples: tokens that all questions of a subject begin with.
        own: tokens of a question.
        choices: continuations of a question.
        choice: tokens of a continuation.
    """

    shows: str
    subjects: tuple[int, ...]
    examples: int
    own: Lengths
    choices: int
    choice: Lengths


SCORED = {
    "mmlu-shape": Questions(
        "scores of one token behind shared examples", (16, 64, 256), 600, 80, 4, 1
    ),
    "hellaswag-shape": Questions("scores of several tokens", (256,), 0, (40, 120), 4, (20, 40)),
}
GENERATED = {
    "gsm8k-shape": Spec("answers behind 8 examples", (Group(1, 128, 900, (40, 120), 256),)),
}
EVALUATIONS = {name: kind.shows for name, kind in (SCORED | GENERATED).items()}
"""Names, and what they show."""
PEERS = {
    "mmlu-shape": ("vllm-harness", "vllm-expert"),
    "hellaswag-shape": ("vllm-harness",),
    "gsm8k-shape": ("vllm-harness",),
}
"""Whom each is measured beside."""


def make_evaluation(name: str, vocabulary: int, scale: float = 1.0, seed: int = SEED) -> Workload:
    """A workload of `EVALUATIONS`; arguments as for `make_workload`. Choices are not scaled."""
    if name in GENERATED:
        return make_generation(name, GENERATED[name], vocabulary, scale, seed)
    asked = SCORED[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def tokens(lengths: Lengths) -> Tokens:
        low, high = lengths if isinstance(lengths, tuple) else (lengths, lengths)
        count = int(rng.integers(scaled(low, scale), scaled(high, scale) + 1))
        ids: Tokens = rng.integers(SPECIAL_IDS, vocabulary, count).tolist()
        return ids

    prompts: list[Tokens] = []
    starts: list[int] = []
    for questions in asked.subjects:
        examples = tokens(asked.examples)
        for _ in range(scaled(questions, scale)):
            context = examples + tokens(asked.own)
            prompts += [context + tokens(asked.choice) for _ in range(asked.choices)]
            starts += [len(context)] * asked.choices
    return Workload(name, prompts, [0] * len(prompts), starts=starts)
