"""Looking at other processes."""

from __future__ import annotations

import time
from pathlib import Path

from shoal import LLM
from shoal.tensor_parallel.sharded_model import ShardedModel


def sharded(llm: LLM) -> ShardedModel:
    model = llm._engine._model
    assert isinstance(model, ShardedModel)
    return model


def rank_1_of(llm: LLM) -> int:
    """The process id of the only other process of a model."""
    (process,) = sharded(llm).workers.processes.running.values()
    return process.pid


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def ends(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not lives(pid)
