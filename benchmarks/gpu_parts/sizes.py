"""How large everything is: for a GPU, and for a smoke test on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu_parts.ceilings import ROWS
from benchmarks.gpu_parts.cells import (
    CELLS,
    MONKEYS_CELLS,
    MONKEYS_TIMES,
    MOST_TIMES,
    Cell,
)
from benchmarks.gpu_parts.equality import SHAPES as EQUALITY_MODELS
from benchmarks.gpu_parts.kernel import LLAMA_8B_HEADS, shapes
from benchmarks.gpu_parts.tune import TRIALS, Trial
from benchmarks.models import LLAMA_1B, LLAMA_8B, MODELS, ModelShape
from benchmarks.shapes import Heads, Shape


@dataclass(frozen=True)
class Runs:
    """A model, and what is run on it end to end.

    Attributes:
        scale, most_times: see `end_to_end.Bench`.
    """

    model: str
    shape: ModelShape
    cells: tuple[Cell, ...]
    scale: float
    most_times: int


@dataclass(frozen=True)
class Sizes:
    """Of one run of the benchmark.

    Attributes:
        copy_bytes, square, rows: see `measure_ceilings`.
        token_budget: see `end_to_end.Bench`.
        ample_blocks: KV blocks where memory is ample; None: most of what the model leaves free.
        peer_requests, peer_limits: for transformers' continuous batching.
    """

    dtype: torch.dtype
    copy_bytes: int
    square: int
    rows: tuple[int, ...]
    heads: Heads
    kernel_shapes: list[Shape]
    trials: tuple[Trial, ...]
    workloads: Runs
    monkeys: Runs
    token_budget: int | None
    ample_blocks: int | None
    peer_requests: int
    peer_limits: dict[str, float | int]
    equality_models: dict[str, ModelShape]


def real_sizes() -> Sizes:
    """For an H200: a few gigabytes, several times its cache."""
    return Sizes(
        dtype=torch.bfloat16,
        copy_bytes=4 * 2**30,
        square=8192,
        rows=ROWS,
        heads=LLAMA_8B_HEADS,
        kernel_shapes=shapes(),
        trials=TRIALS,
        workloads=Runs("llama-8b", LLAMA_8B, CELLS, 1.0, MOST_TIMES),
        monkeys=Runs("llama-1b", LLAMA_1B, MONKEYS_CELLS, 1.0, MONKEYS_TIMES),
        token_budget=None,
        ample_blocks=None,
        peer_requests=32,
        peer_limits={"max_memory_percent": 0.5},
        equality_models=EQUALITY_MODELS,
    )


def smoke_sizes() -> Sizes:
    """Seconds on one core, kernels under Triton's interpreter included."""
    smoke, policies = MODELS["smoke"], ("shoal", "sorted-lru", "paper", "fcfs-lru")
    cells = (
        Cell("tight-2k", tight=True, policies=policies, profiled=True),
        Cell("n-best", policies=("shoal", "sorted-lru")),
    )
    return Sizes(
        dtype=torch.float32,
        copy_bytes=2**20,
        square=64,
        rows=(4, 16),
        heads=Heads(2, 1, 64),
        kernel_shapes=[
            Shape("decode-48x3", 1, 48, 3, 1, 20),
            Shape("prefill-20x1-behind", 1, 20, 1, 8, 12),
        ],
        trials=(Trial(Heads(2, 1, 64), (Shape("tiny", 1, 8, 2, 1, 4),), TRIALS[0].variants[:1]),),
        workloads=Runs("smoke", smoke, cells, 0.2, 1),
        monkeys=Runs("smoke", smoke, MONKEYS_CELLS, 0.02, 1),
        token_budget=128,
        ample_blocks=256,
        peer_requests=3,
        peer_limits={"num_blocks": 16, "max_batch_tokens": 256},
        equality_models={"random-qwen2": EQUALITY_MODELS["random-qwen2"]},
    )
