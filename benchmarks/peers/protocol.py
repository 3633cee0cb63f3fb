"""The worker's side of the talk between the runner and an engine.

One JSON object per line on standard input, one answer per line on standard output:

    {"op": "load", "model": ..., "kv_gib": 1, "max_model_len": 8192}  ->  {"versions": {...}}
    {"op": "run", "prompts": [...], "outputs": [...], "n": 1, "temperature": 0.0}
        ->  {"seconds": ..., "token_ids": [per prompt [per choice [ids]]], "peak_rss_bytes": ...}
    {"op": "score", "prompts": [...], "starts": [...], "expert": false}
        ->  {"seconds": ..., "scores": [per prompt [logprob, greedy]], "peak_rss_bytes": ...}

`score` is answered by the engines that evaluate (`Scorer`).

Standard library only: it is imported in every engine's environment. Whatever else an engine prints
goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

TokenIds = list[list[list[int]]]
"""Generated ids per prompt and choice."""
Scores = list[tuple[float, bool]]
"""Of each prompt the log-probability of its tokens from a start on, and whether they are greedy."""


class Engine(Protocol):
    """One engine behind the protocol."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """Load a model; versions of what matters."""

    def prepare(
        self, prompts: list[list[int]], outputs: list[int], n: int, temperature: float
    ) -> Callable[[], Any]:
        """Make ready to run, caches empty; calling the result is what is timed."""

    def token_ids(self, result: Any) -> TokenIds:
        """What the timed call generated, in the order of the prompts."""


class Scorer(Engine, Protocol):
    """An engine that can score prompts, too."""

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """Make ready to score, caches empty; calling the result is what is timed.

        Args:
            starts: from which token on each prompt is scored.
            expert: ask as somebody would who knows the engine well, not as the harness does.
        """


def serve(engine: Engine) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "load": lambda **model: {"versions": engine.load(**model)},
        "run": lambda **work: _run(engine, **work),
        "score": lambda **work: _score(engine, **work),
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request.pop("op")](**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(engine: Engine, **work: Any) -> dict[str, Any]:
    result, measured = _timed(engine.prepare(**work))
    return measured | {"token_ids": engine.token_ids(result)}


def _score(engine: Any, **work: Any) -> dict[str, Any]:
    scores, measured = _timed(engine.prepare_scores(**work))
    return measured | {"scores": scores}


def _timed(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    gc.collect()
    reset_peak_rss()
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    return result, {"seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}


def reset_peak_rss() -> None:
    """Begin a new peak of this process's memory, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("peak memory is that of the process's whole life", file=sys.stderr)


def peak_rss_bytes() -> int:
    """Most memory this process held since the last reset, in bytes; 0 where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
