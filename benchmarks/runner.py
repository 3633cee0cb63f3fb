"""Runs workloads on all engines in turn, and makes one record of each workload."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import by_prompt, check_work, compare, compare_scores
from benchmarks.evaluations import EVALUATIONS, make_evaluation
from benchmarks.models import MAX_MODEL_LEN, MODELS, ensure_model
from benchmarks.peers.client import (
    CONTENDERS,
    OURS,
    ROOT,
    PeerError,
    RunResult,
    Worker,
    python_of,
)
from benchmarks.peers.preload import NO_TCMALLOC
from benchmarks.rates import RateMeter
from benchmarks.roofline import count_flops, count_work
from benchmarks.stolen import StolenTime
from benchmarks.workloads import Workload, make_workload

KV_GIB = 1
"""KV memory of every engine."""
WARM_UP_SCALE = 0.25
MOST_STOLEN = 0.03
"""Share of the cores' time that a host may take from a run that counts."""
MOST_REPEATS = 4
"""How often a disturbed run is repeated; then the least disturbed one counts, and says so."""
MOST_SECONDS = 1200.0
"""A disturbed run is repeated only if all its runs together are expected to take no longer."""

Record = dict[str, Any]


@dataclass
class Timings:
    """All rounds of one workload, by contender."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    stolen: dict[str, list[float]] = field(default_factory=dict)
    """Share of the cores' time that the host took from each run."""
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    ids: dict[str, dict[tuple[int, ...], list[int]]] = field(default_factory=dict)
    """Greedy ids of the last round by prompt; empty for sampled workloads."""
    scores: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    """Scores of the last round; empty where tokens are generated."""

    def add(self, name: str, workload: Workload, result: RunResult, stolen: float) -> None:
        """Check and keep one run."""
        check_work(name, workload, result)
        self.seconds.setdefault(name, []).append(result.seconds)
        self.stolen.setdefault(name, []).append(stolen)
        peak = max(self.peak_rss_bytes.get(name, 0), result.peak_rss_bytes)
        self.peak_rss_bytes[name] = peak
        if workload.starts is not None:
            self.scores[name] = result.scores
        elif workload.temperature == 0:
            self.ids[name] = by_prompt(workload, result)

    def agreement(self, workload: Workload, a: str, b: str) -> dict[str, float] | None:
        """How far two contenders agree; None of a sampled workload."""
        if a in self.scores:
            found = compare_scores(workload, self.scores[a], self.scores[b])
            return rounded(asdict(found))
        return rounded(asdict(compare(self.ids[a], self.ids[b]))) if a in self.ids else None

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return statistics.median(self.seconds[name])


class Bench:
    """One model loaded into all engines. Use it as a context."""

    def __init__(self, model: str, peers: Sequence[str], folder: Path, rounds: int) -> None:
        """Start and load the engines.

        Args:
            peers: contenders beside ours.
            folder: for models, environments, logs and caches.

        Raises:
            PeerError: a peer is not installed, or an engine failed.
        """
        self.model, self.rounds = model, rounds
        self.shape = MODELS[model]
        self.contenders = [OURS, *peers]
        self._threads = torch.get_num_threads()
        self._stack = ExitStack()
        engines = dict.fromkeys(CONTENDERS[name].engine for name in self.contenders)
        for engine in engines:
            python_of(engine, folder)
        path = ensure_model(model, folder / "models")
        self._workers: dict[str, Worker] = {}
        self.versions: dict[str, dict[str, str]] = {}
        try:
            for engine in engines:
                say(f"{model}: loading {engine}")
                worker = self._stack.enter_context(Worker(engine, folder, self._threads))
                self._workers[engine] = worker
                if engine.startswith("vllm") and not any(
                    "tcmalloc" in name for name in worker.preload
                ):
                    say(f"note: {NO_TCMALLOC}")
                self.versions[engine] = worker.load(path, KV_GIB, MAX_MODEL_LEN)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, name: str, scale: float) -> Record:
        """Warm up, run all rounds, return the record.

        Raises:
            PeerError: an engine failed.
            UnequalWorkError: an engine did not do the work.
        """
        make = make_evaluation if name in EVALUATIONS else make_workload
        as_asked = make(name, self.shape.vocabulary, scale)
        self._check(as_asked)
        orders = {False: as_asked, True: as_asked.sorted()}
        warm_up = make(name, self.shape.vocabulary, scale * WARM_UP_SCALE, seed=1)
        for contender in self.contenders:
            how = CONTENDERS[contender]
            if how.sorts:  # the same engine, which is warm
                continue
            say(f"{name}: warming up {contender}")
            self._workers[how.engine].run(warm_up, how.expert)
        timings, meter = Timings(), RateMeter(self.shape)
        for number in range(1, self.rounds + 1):
            for contender in self.contenders:
                meter.measure()
                how = CONTENDERS[contender]
                workload = orders[how.sorts]
                run = partial(self._workers[how.engine].run, workload, how.expert)
                result, stolen = undisturbed(run)
                timings.add(contender, workload, result, stolen)
                say(
                    f"{name} round {number}/{self.rounds} {contender}: {result.seconds:.2f} s, "
                    f"{workload.counted_tokens / result.seconds:.0f} tokens/s, "
                    f"{stolen:.1%} stolen"
                )
        if scale == 1:
            meter.complete()
        return self._record(as_asked, scale, timings, meter)

    def _check(self, workload: Workload) -> None:
        for name in self.contenders:
            how = CONTENDERS[name]
            if not (how.generates if workload.starts is None else how.scores):
                kind = "generates" if workload.starts is None else "scores"
                raise PeerError(f"{workload.name} {kind}, which {name} is not measured on")

    def _record(
        self, workload: Workload, scale: float, timings: Timings, meter: RateMeter
    ) -> Record:
        work = count_work(workload)
        flops = count_flops(work, self.shape)
        ours = timings.median(OURS)
        peers = {name: timings.median(name) for name in self.contenders if name != OURS}
        floor = flops.total / meter.matmul_flops
        tokens = workload.counted_tokens
        return {
            "workload": workload.name,
            "model": self.model,
            "ours_seconds": rounded(ours),
            "peers": rounded(peers),
            "ratios": rounded({name: seconds / ours for name, seconds in peers.items()}),
            "roofline_fraction": rounded(floor / ours),
            "roofline_seconds": rounded(floor),
            "tokens": tokens,
            "work": asdict(work),
            "flops": asdict(flops),
            "tokens_per_second": rounded(
                {name: tokens / timings.median(name) for name in self.contenders}
            ),
            "rounds": rounded(timings.seconds),
            "stolen": rounded(timings.stolen),
            "agreement": {
                name: found
                for name in peers
                if (found := timings.agreement(workload, OURS, name)) is not None
            },
            "peer_agreement": {
                f"{a} {b}": found
                for a, b in combinations(peers, 2)
                if (found := timings.agreement(workload, a, b)) is not None
            },
            "peak_rss_bytes": timings.peak_rss_bytes,
            "matmul_gflops": rounded(meter.matmul_flops / 1e9),
            "matmul_dtype": str(meter.matmul_dtype).removeprefix("torch."),
            "layer_gflops": rounded(meter.layer_flops / 1e9),
            "copy_gb_per_second": rounded(meter.copy_bytes / 1e9),
            "kv_gib": KV_GIB,
            "scale": scale,
            "cpu": cpu_name(),
            "threads": self._threads,
            "versions": self.versions,
            "preload": {
                name: [Path(library).name for library in worker.preload]
                for name, worker in self._workers.items()
            },
            "commit": commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def undisturbed(run: Callable[[], RunResult]) -> tuple[RunResult, float]:
    """A run from which the host took little, or the best of several; and what it took."""
    best: tuple[RunResult, float] | None = None
    spent = 0.0
    for runs in range(1, 2 + MOST_REPEATS):
        with StolenTime() as time:
            result = run()
        spent += result.seconds
        if best is None or time.fraction < best[1]:
            best = result, time.fraction
        if time.fraction <= MOST_STOLEN:
            break
        say(f"the host took {time.fraction:.1%} of a run of {result.seconds:.2f} s")
        if spent * (runs + 1) / runs > MOST_SECONDS:
            break
    assert best is not None
    return best


def rounded(value: Any) -> Any:
    """Numbers to four significant digits, wherever they are in it."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}")


def records_name(cpu: str) -> str:
    """The file for the records of such a processor, by the last of its instruction sets."""
    return f"cpu-{cpu.split()[-1].replace('_', '-')}.jsonl"


def cpu_name() -> str:
    """The processor's name, and the instruction sets that matter for bfloat16, oldest first."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    fields = {name.strip(): value.strip() for name, value in pairs}
    flags = set(fields.get("flags", "").split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = fields.get("model name", "processor")
    return f"{name}, {os.cpu_count()} cores, {' '.join(known) or platform.machine()}"


def commit() -> str:
    """The repository's commit, with "+changes" if the tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def say(text: str) -> None:
    """One progress line."""
    print(text, file=sys.stderr, flush=True)
