"""Where expanding a shared segment's latents (MLA) becomes faster than absorbing: rows 1 to 512.

python -m benchmarks.latent [--shape deepseek-v3] [--dtype bfloat16] [--tokens 2048] [--rounds 3]

Both ways in turn, median of the rounds, one layer. Which one is chosen by itself is marked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import numpy as np
import torch

from benchmarks.attention import seconds_per_call
from shoal.attention import KVShape, select_backend
from shoal.attention.latent import Expansion, LatentAttention, LatentHeads
from shoal.costs import BLOCK_SIZE
from shoal.work import SegmentWork

SHAPES = {
    "deepseek-v3": (128, 128, 64, 512, 128),
    "deepseek-v2-lite": (16, 128, 64, 512, 128),
    "glm-4.7-flash": (20, 192, 64, 512, 256),
    "minicpm3": (40, 64, 32, 256, 64),
}
"""Heads, plain and rotated numbers of a key, of the latent, and of a value."""
ROWS = [1 << power for power in range(10)]


def one_segment(rows: int, tokens: int) -> SegmentWork:
    """So many rows that all attend to one segment."""
    blocks = -(-tokens // BLOCK_SIZE)
    return SegmentWork(
        num_rows=rows,
        row_first=np.array([0], np.int32),
        row_last=np.array([rows], np.int32),
        kv_tokens=np.array([tokens], np.int32),
        starts=np.array([0], np.int32),
        causal=np.array([False]),
        block_offsets=np.array([0, blocks], np.int64),
        blocks=np.arange(blocks, dtype=np.int32),
        block_size=BLOCK_SIZE,
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="deepseek-v3")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    heads, plain, rope, rank, value_dim = SHAPES[options.shape]
    dtype, cpu = getattr(torch, options.dtype), torch.device("cpu")
    kept = LatentHeads(1, rank + rope, rank)
    chosen = select_backend(dtype, cpu, [kept])
    assert isinstance(chosen, LatentAttention)
    ways = {
        "absorbed": LatentAttention(chosen.inner, float("inf")),
        "expanded": LatentAttention(chosen.inner, 0),
    }
    weight = (torch.randn(heads, plain + value_dim, rank) * rank**-0.5).to(dtype)
    expansion = Expansion(weight[:, :plain], weight[:, plain:])
    blocks = -(-options.tokens // BLOCK_SIZE)
    layer = chosen.allocate(KVShape(*kept, blocks, BLOCK_SIZE, dtype, cpu, latent=True))
    latents = torch.randn(1, blocks * BLOCK_SIZE, rank + rope).to(dtype)
    chosen.store(layer, torch.arange(blocks * BLOCK_SIZE), latents, latents[..., :rank])
    least = expansion.crossing(rope)
    print(f"{chosen.name}, {torch.get_num_threads()} threads", file=sys.stderr)
    result: dict[str, object] = {}
    for rows in ROWS:
        work = one_segment(rows, options.tokens)
        query = torch.randn(heads, rows, plain + rope).to(dtype)

        def call(way: LatentAttention) -> object:
            # As in a model: prepared once for all layers, of which this is one.
            return way.attend(query, layer, prepared[way.name, id(way)], 0.1, expansion)  # noqa: B023

        prepared = {(way.name, id(way)): way.prepare(work, cpu) for way in ways.values()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                seconds[name].append(seconds_per_call(lambda: call(way)))  # noqa: B023
        result = {
            "shape": options.shape,
            "dtype": options.dtype,
            "tokens": options.tokens,
            "rows": rows,
            **{f"{name}_ms": round(1e3 * statistics.median(s), 2) for name, s in seconds.items()},
            "chosen": "expanded" if rows >= least else "absorbed",
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
