"""The functions of recurrent layers: our kernels beside transformers' own, in the same batch.

Of Qwen3.5's gated delta rule and of Falcon-H1's Mamba-2, in the sizes of small models.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from shoal.recurrence import PACKED_FUNCTIONS, PreparedStates
from shoal.recurrence.state_memory import LayerStates
from shoal.state_work import StateWork

SLOTS = 256
BATCHES = {
    "256 rows decoding": (256, 1),
    "32 prompts of 64": (32, 64),
    "a prompt of 2048": (1, 2048),
}
"""Chunks and their rows."""

Run = Callable[[], Any]


def main(arguments: list[str] | None = None) -> int:
    """One line of JSON for each function and batch."""
    parser = argparse.ArgumentParser("python -m benchmarks.recurrence", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn (default 5)")
    rounds = parser.parse_args(arguments).rounds
    for batch, (chunks, rows) in BATCHES.items():
        for name, make in FUNCTIONS.items():
            ways = {way: make(_states(chunks, rows, way)) for way in ("ours", "transformers")}
            seconds = _in_turn(ways, rounds)
            ratio = seconds["transformers"] / seconds["ours"]
            record = {"function": name, "batch": batch, "ratio": round(ratio, 2)}
            record |= {f"{way}_ms": round(each * 1e3, 2) for way, each in seconds.items()}
            print(json.dumps(record), flush=True)
    return 0


def _states(chunks: int, rows: int, way: str) -> PreparedStates:
    first = np.arange(chunks + 1, dtype=np.int64) * rows
    slots, none = np.arange(chunks, dtype=np.int64), np.zeros(chunks, dtype=np.int64)
    work = StateWork(first, slots, slots, none, np.zeros(chunks * rows, dtype=np.bool_))
    prepared = PreparedStates(work, SLOTS, torch.device("cpu"))
    if way != "ours":
        prepared.ops = None
    return prepared


def _in_turn(ways: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for way, run in ways.items():
                begin = time.perf_counter()
                run()
                if number:  # the first warms up
                    seconds[way].append(time.perf_counter() - begin)
    return {way: statistics.median(each) for way, each in seconds.items()}


def _function(model: str, name: str, states: PreparedStates, memory: LayerStates) -> Any:
    own = vars(importlib.import_module(f"transformers.models.{model}.modeling_{model}"))
    packed = PACKED_FUNCTIONS[name]
    step = own[packed.step or name]
    return packed.make(own[name], step, lambda: (memory, states))


def _rows(states: PreparedStates, *shape: int) -> torch.Tensor:
    return torch.randn(1, len(states.generated), *shape).bfloat16()


def _delta_rule(states: PreparedStates) -> Run:
    heads, dim = 6, 128
    memory = LayerStates(None, torch.zeros(SLOTS + 1, heads, dim, dim))
    run = _function("qwen3_5", "torch_chunk_gated_delta_rule", states, memory)
    query, key, value = (_rows(states, heads, dim) for _ in range(3))
    g, beta = -_rows(states, heads).float().abs(), _rows(states, heads).sigmoid()
    return lambda: run(query, key, value, g=g, beta=beta, use_qk_l2norm_in_kernel=True)


def _state_space(states: PreparedStates) -> Run:
    heads, dim, size = 24, 64, 128
    memory = LayerStates(None, torch.zeros(SLOTS + 1, heads, dim, size))
    run = _function("falcon_h1", "mamba2_chunk_scan", states, memory)
    x, dt = _rows(states, heads, dim), _rows(states, heads)
    b, c = _rows(states, 1, size), _rows(states, 1, size)
    decay, skip = -torch.rand(heads), torch.rand(heads)
    return lambda: run(x, dt, decay, b, c, chunk_size=128, D=skip, dt_bias=skip.bfloat16())


def _convolution(states: PreparedStates) -> Run:
    channels = 2304
    memory = LayerStates(torch.zeros(SLOTS + 1, 3, channels).bfloat16(), None)
    run = _function("qwen3_5", "causal_conv1d_fn", states, memory)
    x, weight = _rows(states, channels), torch.randn(channels, 4).bfloat16()
    return lambda: run(x.mT, weight, None, activation="silu")


FUNCTIONS: dict[str, Callable[[PreparedStates], Run]] = {
    "gated delta rule, 6 heads of 128": _delta_rule,
    "Mamba-2, 24 heads of 64, state 128": _state_space,
    "convolution, 2304 channels": _convolution,
}

if __name__ == "__main__":
    sys.exit(main())
