"""Jobs for the fleet's clock: as many requests as one likes, in words of 128 tokens.

What a word costs is that of 128 tokens, so 10^7 prompts of 2,176 tokens take 0.7 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Costs, Machine
from shoal.types import RequestParams, RequestTable

SEED = 20_260
TOKENS = 128
"""Of a word; every answer is expected to be one word."""
PROMPT = 17
"""Words of each prompt."""
VOCABULARY = 1 << 30

MACHINE = Machine(
    Costs(
        flops_per_token=1.6e10 * TOKENS,
        head_flops=1e9 * TOKENS,
        attention_flops=5.2e5 * TOKENS**2,
        weight_bytes=1.6e10,
        kv_bytes=131_072 * TOKENS**2,
        flops_per_second=4e14,
        bytes_per_second=2.6e12,
        iteration_seconds=2e-3,
    ),
    8192 // TOKENS,
    450_000 // TOKENS,
)
"""About a model of 8 billion parameters on an H100."""

Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FleetJob:
    """Requests, and what they really take.

    Attributes:
        factor: float64 [N], of what is predicted for a request alone. Answers vary, and those of a
            family in common: no division can know.
    """

    table: RequestTable
    factor: npt.NDArray[np.float64]


def shared_2k(requests: int, random: np.random.Generator) -> tuple[list[Words], Words]:
    """Families of 32 behind 2,048 tokens."""
    family = random.permutation(requests) // 32
    return [_of(family, 16, random)], family.astype(np.int32)


def skewed(requests: int, random: np.random.Generator) -> tuple[list[Words], Words]:
    """All behind 256 tokens; 32 templates of 512 by Zipf's law, the first with a quarter of all.

    Each has documents of 1,280 tokens, which 20 prompts ask about.
    """
    weight = 1 / np.arange(1, 33)
    document = random.permutation(requests) // 20
    template = random.choice(len(weight), document.max() + 1, p=weight / weight.sum())[document]
    common = np.zeros(requests, dtype=np.int32)
    parts = [_of(common, 2, random), _of(template, 4, random), _of(document, 10, random)]
    return parts, template.astype(np.int32)


SHAPES: dict[str, Callable[[int, np.random.Generator], tuple[list[Words], Words]]] = {
    "shared-2k": shared_2k,
    "skewed": skewed,
}


def fleet_job(shape: str, requests: int) -> FleetJob:
    """A job of a shape, in random order."""
    random = np.random.default_rng(SEED)
    parts, family = SHAPES[shape](requests, random)
    own = random.integers(0, VOCABULARY, (requests, 1), dtype=np.int32)
    words = np.concatenate([*parts, own], axis=1)
    of_family = _varied(int(family.max()) + 1, 0.3, random)
    factor = _varied(requests, 0.5, random) * of_family[family]
    one = np.ones(requests, dtype=np.int32)
    table = RequestTable(
        tokens=words.reshape(-1),
        offsets=np.arange(requests + 1, dtype=np.int64) * PROMPT,
        params=[RequestParams(max_tokens=8)],
        params_index=np.zeros(requests, dtype=np.int32),
        max_new_tokens=one * 8,
        expected_new_tokens=one,
        seeds=np.zeros(requests, dtype=np.int64),
        has_seed=np.zeros(requests, dtype=np.bool_),
        line=np.arange(requests, dtype=np.int64),
    )
    return FleetJob(table, factor)


def _of(number: Words, length: int, random: np.random.Generator) -> Words:
    distinct = random.integers(0, VOCABULARY, (int(number.max()) + 1, length), dtype=np.int32)
    return distinct[number]


def _varied(count: int, spread: float, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Lognormal, with mean 1."""
    return np.exp(spread * random.standard_normal(count) - spread**2 / 2)
