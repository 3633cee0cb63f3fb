"""Chooses the token budget by a short measurement, remembered per machine and model.

More tokens in a batch make matrix products faster, up to a point; beyond it they only delay
decodes and take memory. Where that point lies depends on the machine and on the model's width, so
it is measured: chunks of prompts through the real model, in batches of growing size, until a larger
batch gains nothing or costs too much time to try.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from shoal.engine.description import ModelDescription
from shoal.engine.hook import AttentionStep, attention_step
from shoal.engine.kv import KVPool
from shoal.engine.model import LoadedModel
from shoal.work import SegmentWork

CANDIDATES = (512, 1024, 2048, 4096, 8192)
"""Token budgets that are tried, in this order."""

DEFAULT_TOKEN_BUDGET = 2048
"""Where nothing was measured: planning without weights, pools too small to try."""

WORTH = 1.04
"""How many times faster per token the next budget must be to be taken."""

MOST_SECONDS = 6.0
"""No further budget is tried once this much time is spent or the next would exceed it."""

_SEQUENCE = 512
"""Tokens of the prompts that are measured with."""

_log = logging.getLogger(__name__)


def calibrated_budget(
    model: LoadedModel, description: ModelDescription, pool: KVPool, num_blocks: int, block: int
) -> int:
    """The token budget for a model on this machine: remembered, or measured now and remembered.

    Overwrites the KV pool, so only before a run.
    """
    most = num_blocks * block // _SEQUENCE * _SEQUENCE
    known = remembered_budget(description)
    if known is None:
        if most < CANDIDATES[-1]:
            return DEFAULT_TOKEN_BUDGET
        began = time.perf_counter()
        known = choose(CANDIDATES, lambda tokens: _seconds(model, description, pool, tokens, block))
        _log.info("token budget %d, measured in %.1f s", known, time.perf_counter() - began)
        _write(cache_path(description), known)
    return known


def remembered_budget(description: ModelDescription) -> int | None:
    """The budget measured earlier for this model on this machine."""
    return _read(cache_path(description))


def choose(candidates: Iterable[int], seconds: Callable[[int], float]) -> int:
    """The candidate after which more tokens per batch stop paying.

    Args:
        candidates: growing numbers of tokens.
        seconds: measures one batch of so many tokens.
    """
    best, rate, spent = 0, 0.0, 0.0
    for tokens in candidates:
        if best and spent + 2 * tokens / rate > MOST_SECONDS:
            break
        took = seconds(tokens)
        spent += 2 * took
        if best and tokens / took < rate * WORTH:
            break
        best, rate = tokens, tokens / took
    return best


def cache_path(description: ModelDescription) -> Path:
    """The file that remembers a model's budget on this machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    facts = (
        description.config.to_json_string(),
        str(description.dtype),
        str(description.device),
        _processor(),
        str(torch.get_num_threads()),
        torch.__version__,
    )
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()
    return Path(cache) / "shoal" / "calibration" / f"{digest}.json"


def _seconds(
    model: LoadedModel, description: ModelDescription, pool: KVPool, tokens: int, block: int
) -> float:
    """The faster of two batches of `tokens` prompt tokens."""
    sequences = tokens // _SEQUENCE
    blocks = np.arange(tokens // block, dtype=np.int32)
    work = SegmentWork(
        num_rows=tokens,
        row_first=np.arange(0, tokens, _SEQUENCE, dtype=np.int32),
        row_last=np.arange(_SEQUENCE, tokens + 1, _SEQUENCE, dtype=np.int32),
        kv_tokens=np.full(sequences, _SEQUENCE, dtype=np.int32),
        causal=np.ones(sequences, dtype=np.bool_),
        block_offsets=np.arange(0, tokens // block + 1, _SEQUENCE // block, dtype=np.int64),
        blocks=blocks,
        block_size=block,
    )
    device = description.device
    ids = torch.arange(tokens, device=device) % description.vocab_size
    positions = torch.arange(tokens, device=device) % min(_SEQUENCE, description.max_model_len)
    step = AttentionStep(
        kv=pool,
        slots=torch.arange(tokens, device=device),
        prepared=pool.backend.prepare(work, device),
    )
    times = []
    with torch.inference_mode(), attention_step(step):
        for _ in range(2):
            began = time.perf_counter()
            # Reading a number back waits for the device.
            model.logits(ids, positions, ids[:1]).max().item()
            times.append(time.perf_counter() - began)
    return min(times)


def _processor() -> str:
    """The processor's name; what the platform calls it where /proc does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())


def _read(path: Path) -> int | None:
    """A remembered budget; None where there is none that makes sense."""
    try:
        budget = json.loads(path.read_text())["token_budget"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return budget if budget in CANDIDATES else None


def _write(path: Path, budget: int) -> None:
    """Remember a budget; a cache that cannot be written costs a measurement next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"token_budget": budget}, file)
        os.replace(file.name, path)
    except OSError as error:
        _log.info("cannot remember the token budget in %s: %s", path, error)
