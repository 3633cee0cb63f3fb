"""How large everything is: for a GPU, and for a smoke test on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu_parts.ceilings import ROWS
from benchmarks.gpu_parts.cells import CELLS, MOST_TIMES, Cell
from benchmarks.gpu_parts.equality import SHAPES as EQUALITY_MODELS
from benchmarks.gpu_parts.kernel import LLAMA_8B_HEADS, shapes
from benchmarks.models import LLAMA_8B, MODELS, ModelShape
from benchmarks.shapes import Heads, Shape


@dataclass(frozen=True)
class Sizes:
    """Of one run of the benchmark.

    Attributes:
        copy_bytes, square, rows: see `measure_ceilings`.
        scale, token_budget, most_times: see `end_to_end.Bench`.
        ample_blocks: KV blocks where memory is ample; None: 60 % of what the model leaves free.
        peer_requests, peer_limits: for transformers' continuous batching.
    """

    model: str
    shape: ModelShape
    dtype: torch.dtype
    copy_bytes: int
    square: int
    rows: tuple[int, ...]
    heads: Heads
    kernel_shapes: list[Shape]
    cells: tuple[Cell, ...]
    scale: float
    token_budget: int | None
    most_times: int
    ample_blocks: int | None
    peer_requests: int
    peer_limits: dict[str, float | int]
    equality_models: dict[str, ModelShape]


def real_sizes() -> Sizes:
    """For an H200: a few gigabytes, several times its cache."""
    return Sizes(
        model="llama-8b",
        shape=LLAMA_8B,
        dtype=torch.bfloat16,
        copy_bytes=4 * 2**30,
        square=8192,
        rows=ROWS,
        heads=LLAMA_8B_HEADS,
        kernel_shapes=shapes(),
        cells=CELLS,
        scale=1.0,
        token_budget=None,
        most_times=MOST_TIMES,
        ample_blocks=None,
        peer_requests=32,
        peer_limits={"max_memory_percent": 0.5},
        equality_models=EQUALITY_MODELS,
    )


def smoke_sizes() -> Sizes:
    """Seconds on one core, kernels under Triton's interpreter included."""
    return Sizes(
        model="smoke",
        shape=MODELS["smoke"],
        dtype=torch.float32,
        copy_bytes=2**20,
        square=64,
        rows=(4, 16),
        heads=Heads(2, 1, 64),
        kernel_shapes=[
            Shape("decode-48x3", 1, 48, 3, 1, 20),
            Shape("prefill-20x1-behind", 1, 20, 1, 8, 12),
        ],
        cells=(
            Cell("tight-2k", tight=True, policies=("shoal", "sorted-lru", "paper", "fcfs-lru")),
            Cell("n-best", policies=("shoal", "sorted-lru")),
        ),
        scale=0.2,
        token_budget=128,
        most_times=1,
        ample_blocks=256,
        peer_requests=3,
        peer_limits={"num_blocks": 16, "max_batch_tokens": 256},
        equality_models={"random-qwen2": EQUALITY_MODELS["random-qwen2"]},
    )
