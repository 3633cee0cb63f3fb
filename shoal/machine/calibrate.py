"""Measures a model on its machine before the first run: the token budget, and rates for costs.

More tokens in a batch make matrix products faster, up to a point; beyond it they only take memory.
Where that point lies depends on the machine and on the model's width, so it is measured: chunks of
prompts through the real model, in batches of growing size, until a larger batch gains nothing or
costs too much time to try. What decoding, reading and segments take is
measured by a few batches more (`calibrate_rates.py`). All of it is remembered per machine and
model.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

import torch

from shoal.costs import BLOCK_SIZE
from shoal.cuda.graphs import GraphedForward
from shoal.machine.calibrate_batches import Bench
from shoal.machine.calibrate_rates import measure_rates
from shoal.machine.calibration_cache import Calibration, remember, remembered
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel

CANDIDATES = (512, 1024, 2048, 4096, 8192)
"""Token budgets that are tried, in this order."""

WORTH = {"cuda": 1.04, "cpu": 0.9}
"""How many times faster per token the next budget must be to be taken. On CUDA its activations take
memory from KV. On a CPU they do not: there it is taken unless it is clearly slower, by more than
timings of one machine differ, since it lets more sequences decode together, which prompts alone do
not show (docs/lab-notes.md)."""

MOST_SECONDS = 10.0
"""No further budget is tried once this much time is spent or the next would exceed it."""

_log = logging.getLogger(__name__)


def calibrated(
    model: LoadedModel,
    description: ModelDescription,
    pool: KVPool,
    num_blocks: int,
    make_graphs: Callable[[], GraphedForward | None] = lambda: None,
) -> Calibration | None:
    """What is remembered of a model on this machine, or measured now and remembered.

    Overwrites the KV pool, so only before a run. None: the pool is too small to measure with.

    Args:
        make_graphs: called where something is to be measured.
    """
    known = remembered(description)
    if known is not None or num_blocks * BLOCK_SIZE < CANDIDATES[-1]:
        return known
    bench = Bench(model, description, pool, num_blocks, make_graphs())
    timed: dict[int, float] = {}

    def seconds(tokens: int) -> float:
        try:
            timed[tokens] = bench.prefill_seconds(tokens)
        except torch.OutOfMemoryError:
            if not timed:
                raise
            return math.inf
        return timed[tokens]

    began = time.perf_counter()
    budget = choose(CANDIDATES, seconds, WORTH[description.device.type])
    calibration = Calibration(budget, measure_rates(bench, budget, timed[budget]))
    _log.info("measured in %.1f s: %s", time.perf_counter() - began, calibration)
    remember(description, calibration)
    return calibration


def choose(
    candidates: Iterable[int], seconds: Callable[[int], float], worth: float = WORTH["cuda"]
) -> int:
    """The candidate after which more tokens per batch stop paying.

    Args:
        candidates: growing numbers of tokens.
        seconds: measures one batch of so many tokens; infinite: there is no memory for it.
        worth: see `WORTH`. Below 1 a candidate that is slower does not end the search: a machine's
            speed varies more than that.
    """
    best, rate, spent = 0, 0.0, 0.0
    for tokens in candidates:
        if best and spent + 2 * tokens / rate > MOST_SECONDS:
            break
        took = seconds(tokens)
        spent += 2 * took
        if tokens / took >= rate * worth:
            best, rate = tokens, max(rate, tokens / took)
        elif worth >= 1:
            break
    return best
