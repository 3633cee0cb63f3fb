"""Where a run's time goes on the device: kernels by kind, gaps, and what the host waits for."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.clock import synchronize
from benchmarks.gpu_parts.contenders import make_table
from benchmarks.workloads import Workload
from shoal.engine.engine import Engine
from shoal.executor.executor import Executor, PendingResult
from shoal.sampling.results import StepResult
from shoal.scheduler import TokenBatch

KINDS = {
    "attention": r"attend|merge|store",
    "products": r"gemm|nvjet|cutlass|cublas|splitK|gemv",
    "sampling": r"draw|topk|sort|scan|searchsorted|gather|argmax|MaxOps|max_",
    "fused": r"rms_norm|gated|rotary",
    "copies": r"Memcpy|Memset|copy|CatArray|index",
    "elementwise": r"elementwise|reduce|vectorized|softmax",
}
"""Kinds of device work, by a pattern in the kernel's name; the first that matches counts."""
TOP = 12
"""Kernels that are named, of those that take longest."""


@dataclass(frozen=True)
class Span:
    """A piece of work on the device, in microseconds."""

    name: str
    start: float
    duration: float


@dataclass
class Waits:
    """Seconds the host spent in the executor: launching, and waiting for tokens."""

    launch: float = 0.0
    collect: float = 0.0
    rows: list[int] = field(default_factory=list)


class TimedExecutor:
    """An executor that notes how long its calls take."""

    def __init__(self, executor: Executor, waits: Waits) -> None:
        self._executor, self._waits = executor, waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def launch(self, batch: TokenBatch) -> PendingResult:
        """See `Executor`."""
        began = time.perf_counter()
        pending = self._executor.launch(batch)
        self._waits.launch += time.perf_counter() - began
        self._waits.rows.append(batch.num_tokens)
        return pending

    def collect(self, pending: PendingResult) -> StepResult:
        """See `Executor`."""
        began = time.perf_counter()
        result = self._executor.collect(pending)
        self._waits.collect += time.perf_counter() - began
        return result


def profile_run(engine: Engine, workload: Workload, skip: int, iterations: int) -> dict[str, Any]:
    """Figures of some iterations in the middle of a run, which is then given up.

    Args:
        skip: iterations before those that are looked at.
    """
    table, device = make_table(workload), engine.description.device
    waits, plain = Waits(), engine.executor
    engine.executor = lambda table, plan: TimedExecutor(plain(table, plan), waits)  # type: ignore[method-assign]
    try:
        run = iter(engine.run(table))
    finally:
        del engine.executor
    done = sum(1 for _ in islice(run, skip))
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profiler:
        synchronize(device)
        waits.launch = waits.collect = 0.0
        waits.rows.clear()
        began = time.perf_counter()
        looked = sum(1 for _ in islice(run, iterations))
        seconds = time.perf_counter() - began
        synchronize(device)
    del run
    figures = summarise(_spans(profiler), max(looked, 1))
    host = {"launch": waits.launch, "collect": waits.collect}
    host["rest"] = seconds - waits.launch - waits.collect
    return {
        "skipped_iterations": done,
        "iterations": looked,
        "seconds_per_iteration": seconds / max(looked, 1),
        "rows_per_iteration": sum(waits.rows) / max(len(waits.rows), 1),
        "host_ms_per_iteration": {k: v * 1e3 / max(looked, 1) for k, v in host.items()},
        **figures,
    }


def summarise(spans: Iterable[Span], iterations: int) -> dict[str, Any]:
    """Milliseconds per iteration by kind and for the longest kernels; the share that is busy."""
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, list[float]] = defaultdict(list)
    spans = sorted(spans, key=lambda span: span.start)
    busy, end = 0.0, -1.0
    for span in spans:
        kinds[kind_of(span.name)] += span.duration
        names[span.name].append(span.duration)
        last = span.start + span.duration
        busy += max(0.0, last - max(span.start, end))
        end = max(end, last)
    whole = end - spans[0].start if spans else 0.0
    longest = sorted(names.items(), key=lambda item: -sum(item[1]))[:TOP]
    return {
        "busy_fraction": busy / whole if whole else 0.0,
        "device_ms_per_iteration": whole / 1e3 / iterations,
        "kinds_ms": {kind: us / 1e3 / iterations for kind, us in sorted(kinds.items())},
        "launches_per_iteration": len(spans) / iterations,
        "longest": [
            {"kernel": name[:90], "ms": sum(us) / 1e3 / iterations, "calls": len(us) / iterations}
            for name, us in longest
        ],
    }


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    return next((kind for kind, find in KINDS.items() if re.search(find, name)), "other")


def _spans(profiler: Any) -> list[Span]:
    """The device's work; on a CPU, which has no kernels, its operations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    wanted = {"kernel", "gpu_memcpy", "gpu_memset"}
    if not any(event.get("cat") in wanted for event in events):
        wanted = {"cpu_op"}
    return [
        Span(event["name"], float(event["ts"]), float(event["dur"]))
        for event in events
        if event.get("cat") in wanted and "dur" in event
    ]
