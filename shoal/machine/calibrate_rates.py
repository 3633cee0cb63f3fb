"""Measures what a machine does per second with one model, by a few batches of known work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain, combinations

import numpy as np

from shoal.costs import BLOCK_SIZE, Costs, Rates
from shoal.machine.calibrate_batches import PROMPT, STEPS, Bench, Decoding
from shoal.machine.model_costs import default_costs
from shoal.planner.seen_pairs import seen_pairs

SECONDS = 2.0
"""Batches are measured again and again until so much time is spent; the fastest counts."""

LEAST_ROUNDS = 2
MOST_ROUNDS = STEPS - 4

ROWS = 64
"""Sequences that decode together."""

SPLITS = ([240], [80] * 3, [48] * 5)
"""The same tokens in ever more levels, each of which leaves half a block of 32 empty: what a
segment of any length does on average."""

GROUPS = (1, 8)
"""Numbers of groups the rows are divided into."""

LONG = 1024
"""Most tokens per row to measure reading with."""


def measure_rates(bench: Bench, prefill_tokens: int, prefill_seconds: float) -> Rates:
    """The rates of a model on this machine, in about `SECONDS`.

    - flops_per_second: the work of the measured prefill by its seconds;
    - bytes_per_second: attention of rows whose KV nobody shares;
    - iteration_seconds: a forward of one row, less reading the weights;
    - segment_seconds, use_seconds: see `overheads`.

    Overwrites the KV pool.

    Args:
        prefill_tokens, prefill_seconds: a batch of prompts of `PROMPT` tokens, measured.
    """
    costs = default_costs(bench.description, windows=bench.model.windows)
    flops = prefill_flops(costs, prefill_tokens)
    own = min(LONG, bench.num_blocks // ROWS * BLOCK_SIZE - STEPS)
    one = Decoding(bench, groups=1, users=1, levels=[])
    long = Decoding(bench, groups=1, users=ROWS, levels=[], own=own)
    split = {
        (groups, len(levels)): Decoding(
            bench, groups=groups, users=ROWS // groups, levels=list(levels)
        )
        for groups in GROUPS
        for levels in SPLITS
    }
    forward, read = [], []
    seconds: dict[tuple[int, int], list[float]] = {case: [] for case in split}
    began = time.perf_counter()
    for rounds in range(MOST_ROUNDS):
        if rounds >= LEAST_ROUNDS and time.perf_counter() - began > SECONDS:
            break
        forward.append(bench.decode_seconds(one.batch))
        read.append(bench.attention_seconds(long.batch))
        for case, decoding in split.items():
            batch, scheduling = decoding.step()
            seconds[case].append(scheduling + bench.attention_seconds(batch))
    bytes_per_second = ROWS * (own + 1) * costs.kv_bytes / min(read)
    segment, use = overheads({case: min(taken) for case, taken in seconds.items()})
    return Rates(
        flops_per_second=flops / prefill_seconds,
        bytes_per_second=bytes_per_second,
        iteration_seconds=max(0.0, min(forward) - costs.weight_bytes / bytes_per_second),
        segment_seconds=segment,
        use_seconds=use,
    )


def prefill_flops(costs: Costs, tokens: int) -> float:
    """FLOP of a batch of so many prompt tokens, in prompts of `PROMPT`, each by itself."""
    length = np.array([PROMPT])
    whole = 0 * length, length
    attention = 0.0
    for kind in costs.attention:
        pairs = seen_pairs(kind.window, whole, whole).astype(np.float64)
        attention += float(kind.flops(pairs, length.astype(np.float64))[0])
    return tokens * costs.flops_per_token + tokens / PROMPT * attention


def overheads(seconds: Mapping[tuple[int, int], float]) -> tuple[float, float]:
    """Seconds per segment, and per row and level, by least squares; neither below 0.

    `ROWS` rows in g groups behind l levels take base_g + segment·g·l + use·ROWS·l: the same
    tokens are read and multiplied whatever l is.

    Args:
        seconds: of an iteration, by (groups, levels).
    """
    cases = np.array(list(seconds))
    taken = np.array(list(seconds.values()))
    bases = (cases[:, :1] == np.unique(cases[:, 0])).astype(np.float64)
    slopes = np.stack([cases.prod(axis=1), ROWS * cases[:, 1]], axis=1)
    best = (np.inf, 0.0, 0.0)
    for kept in chain.from_iterable(combinations(range(2), n) for n in range(3)):
        matrix = np.concatenate([bases, slopes[:, kept]], axis=1)
        found = np.linalg.lstsq(matrix, taken, rcond=None)[0]
        slope = np.zeros(2)
        slope[list(kept)] = found[bases.shape[1] :]
        error = float(((matrix @ found - taken) ** 2).sum())
        if (slope >= 0).all() and error < best[0]:
            best = (error, float(slope[0]), float(slope[1]))
    return best[1], best[2]
