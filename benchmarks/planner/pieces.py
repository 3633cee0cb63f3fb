"""Prompt tokens computed by one plan, by pieces that are ranges, and by blocks as they come.

`python -m benchmarks.planner.pieces --requests 100000` prints a table. No model runs: what is
counted is what the planner would have computed. A token of the table stands for 32 of a prompt, so
that a million prompts of 2,112 tokens fit a small machine; families share no more for that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import numpy as np

from shoal.planner import build_forest, savings
from shoal.planner.range_pieces import PromptSample, piece_bounds, piece_of

SEED = 20_260
TOKEN = 32
VOCABULARY = 1 << 30
ROWS_PER_PIECE = 100_000
SAMPLE_ROWS = 20_000
BLOCK_BYTES = 128 << 20
"""Ray Data's default target of a block."""
ID_BYTES = 8
"""Of a token id in a list of int64, as Python's integers come."""
CALL_ROWS = 1_024
"""Rows of a batch of `map_batches`, `LEGACY_DEFAULT_BATCH_SIZE` of Ray Data."""

Prompts = np.ndarray
"""int32 [N, length], in the order they come."""


def shared_2k(requests: int, random: np.random.Generator) -> Prompts:
    """Families of 32 behind 2,048 tokens, 64 of each prompt's own."""
    family = random.permutation(requests) // 32
    prefixes = _tokens(random, int(family.max()) + 1, 2048 // TOKEN)
    return np.concatenate([prefixes[family], _tokens(random, requests, 64 // TOKEN)], axis=1)


def skewed(requests: int, random: np.random.Generator) -> Prompts:
    """All behind 256 tokens; templates of 512 by Zipf's law, the first with a quarter of all.

    Each has documents of 1,280 tokens, which 20 prompts ask about, with 64 of their own.
    """
    common = np.repeat(_tokens(random, 1, 256 // TOKEN), requests, axis=0)
    weight = 1 / np.arange(1, 33)
    document = random.permutation(requests) // 20
    documents = int(document.max()) + 1
    template = random.choice(len(weight), documents, p=weight / weight.sum())[document]
    parts = (
        common,
        _tokens(random, len(weight), 512 // TOKEN)[template],
        _tokens(random, documents, 1280 // TOKEN)[document],
        _tokens(random, requests, 64 // TOKEN),
    )
    return np.concatenate(parts, axis=1)


SHAPES: dict[str, Callable[[int, np.random.Generator], Prompts]] = {
    "shared-2k": shared_2k,
    "skewed": skewed,
}


def computed(prompts: Prompts) -> int:
    """Prompt tokens that one plan of these computes."""
    rows, length = prompts.shape
    offsets = np.arange(rows + 1, dtype=np.int64) * length
    forest = build_forest(prompts.reshape(-1), offsets, np.ones(rows, dtype=np.int32))
    return (prompts.size - savings(forest).forest) * TOKEN


def in_blocks(prompts: Prompts, rows: int) -> int:
    """The same where each `rows` prompts that come one after another have a plan."""
    return sum(computed(prompts[at : at + rows]) for at in range(0, len(prompts), rows))


def in_pieces(
    prompts: Prompts, rows_per_piece: int, random: np.random.Generator
) -> tuple[int, list[int]]:
    """The same for pieces by ranges, and each piece's tokens."""
    keys = [row.tobytes() for row in prompts.astype(">u4")]
    chosen = random.permutation(len(keys))[:SAMPLE_ROWS]
    tokens = np.full(len(chosen), prompts.shape[1] * TOKEN)
    rate = len(chosen) / len(keys)
    sample = PromptSample([keys[i] for i in chosen], tokens, np.full(len(chosen), 64), rate)
    pieces = piece_of(keys, piece_bounds(sample, -(-len(keys) // rows_per_piece)))
    each = [computed(prompts[pieces == piece]) for piece in np.unique(pieces)]
    return sum(each), each


def measure(name: str, requests: int, rows_per_piece: int) -> dict[str, object]:
    """One shape's tokens."""
    random = np.random.default_rng(SEED)
    prompts = SHAPES[name](requests, random)
    block_rows = BLOCK_BYTES // (prompts.shape[1] * TOKEN * ID_BYTES)
    optimum = computed(prompts)
    pieces, each = in_pieces(prompts, rows_per_piece, random)
    return {
        "shape": name,
        "requests": requests,
        "tokens": prompts.size * TOKEN,
        "optimum": optimum,
        "pieces": pieces,
        "num_pieces": len(each),
        "largest_to_mean": max(each) * len(each) / pieces,
        "block_rows": block_rows,
        "blocks": in_blocks(prompts, block_rows),
        "calls": in_blocks(prompts, CALL_ROWS),
    }


def _tokens(random: np.random.Generator, rows: int, length: int) -> np.ndarray:
    return random.integers(0, VOCABULARY, (rows, length), dtype=np.int32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and a JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rows-per-piece", type=int, help="default: 100,000, or a tenth of all")
    chosen = parser.parse_args(arguments)
    rows = chosen.rows_per_piece or min(ROWS_PER_PIECE, -(-chosen.requests // 10))
    records = [measure(name, chosen.requests, rows) for name in SHAPES]
    print(
        "| shape | prompts | tokens computed, one plan | pieces | largest piece to mean | over "
        f"one plan | blocks of 128 MiB (rows) | over one plan | batches of {CALL_ROWS:,} |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for r in records:
        over = {k: f"{r[k] / r['optimum'] - 1:+.2%}" for k in ("pieces", "blocks", "calls")}
        print(
            f"| {r['shape']} | {r['requests']:,} | {r['optimum'] / 1e6:,.1f} M | {r['num_pieces']} "
            f"| {r['largest_to_mean']:.2f} | {over['pieces']} | {r['block_rows']:,} "
            f"| {over['blocks']} | {over['calls']} |"
        )
    print(json.dumps(records))


if __name__ == "__main__":
    main()
