"""What knowing answer lengths brings: `python -m benchmarks.planner.lengths`.

Runs a job against the real planner and scheduler without a model. Its limits are loose, the true
lengths lognormal with a median per template, and KV memory is tight. Compared are

- `prior`: the limits alone, each request expected to reach its own;
- `online`: learnt from the answers that end;
- `pilot`: the same, with a sample of each template first and the rest ordered by what it told;
- `oracle`: every length known beforehand.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from shoal.planner import LengthModel, Pilot, make_plan, pilot_first
from shoal.scheduler import BLOCK_SIZE, BlockPool, Scheduler
from shoal.types import Int64Array, RequestParams, RequestTable

LIMIT = 2048
SIGMA = 0.5
SEED = 20_260
PREFIX = 512
JOBS = {
    "alike": {"median": (60, 80, 100, 120, 140, 160, 180, 200), "own": (64,) * 8},
    "mixed": {"median": (10, 10, 20, 20, 100, 200, 400, 400), "own": (256,) * 8},
}
"""Per template: the median length of its answers, and the prompt tokens of each request's own."""


@dataclass(frozen=True)
class Figures:
    """What one run took.

    Attributes:
        tokens: mean per iteration.
        full: share of the iterations with at least 90 % of the token budget.
        computed: prompt tokens, those computed again included.
        scheduler_ms: time in the scheduler per iteration.
        coverage: share of the answers within their 10, 50 and 90 % quantiles.
    """

    iterations: int
    preemptions: int
    tokens: float
    full: float
    computed: int
    scheduler_ms: float
    coverage: tuple[float, ...] = ()


def job(name: str, requests: int, seed: int = SEED) -> tuple[RequestTable, Int64Array]:
    """Requests of eight templates in random order, and how long each answer will be."""
    random = np.random.default_rng(seed)
    median, own = np.array(JOBS[name]["median"]), np.array(JOBS[name]["own"])
    template = random.integers(0, len(median), requests)
    prompt = [
        np.append(np.full(PREFIX, 40_000 + t), random.integers(0, 30_000, own[t])) for t in template
    ]
    lengths = median[template] * np.exp(SIGMA * random.standard_normal(requests))
    table = RequestTable(
        tokens=np.concatenate(prompt).astype(np.int32),
        offsets=np.append(0, np.cumsum(PREFIX + own[template])).astype(np.int64),
        params=[RequestParams(max_tokens=LIMIT)],
        params_index=np.zeros(requests, dtype=np.int32),
        max_new_tokens=np.full(requests, LIMIT, dtype=np.int32),
        expected_new_tokens=np.full(requests, LIMIT, dtype=np.int32),
        seeds=np.zeros(requests, dtype=np.int64),
        has_seed=np.zeros(requests, dtype=np.bool_),
        line=np.arange(requests, dtype=np.int64),
    )
    return table, np.clip(np.rint(lengths), 1, LIMIT).astype(np.int64)


def run(
    table: RequestTable,
    true_lengths: Int64Array,
    *,
    learns: bool,
    pilots: bool,
    kv_tokens: int,
    token_budget: int,
) -> Figures:
    """One run of the job."""
    blocks = kv_tokens // BLOCK_SIZE
    plan = make_plan(table)
    lengths = LengthModel(plan, table) if learns else None
    plan, num_pilots = pilot_first(plan, table) if pilots else (plan, 0)
    pilot = Pilot(table, lengths, num_pilots) if lengths else None
    scheduler = Scheduler(table, plan, BlockPool(blocks, BLOCK_SIZE), token_budget, lengths)
    sizes: list[int] = []
    began = time.perf_counter()
    while (batch := scheduler.step()) is not None:
        sequences = batch.sample_sequences
        finished = batch.sample_positions + 1 == true_lengths[plan.sequence_request[sequences]]
        scheduler.commit(batch, np.zeros(len(sequences), dtype=np.int32), finished)
        sizes.append(batch.num_tokens)
        if pilot is not None and pilot.ended(sequences[finished]):
            plan = pilot.replan(plan, scheduler.first_untouched)
            scheduler.replan(plan)
    seconds = time.perf_counter() - began
    stats, coverage = scheduler.stats, scheduler.length_coverage
    return Figures(
        iterations=stats.iterations,
        preemptions=stats.preemptions,
        tokens=round(float(np.mean(sizes)), 1),
        full=round(float(np.mean(np.array(sizes) >= 0.9 * token_budget)), 3),
        computed=stats.prompt_tokens_computed,
        scheduler_ms=round(1000 * seconds / stats.iterations, 3),
        coverage=tuple(
            (coverage.within / max(coverage.answers, 1)).round(3).tolist() if coverage else ()
        ),
    )


def compare(
    name: str, requests: int, kv_tokens: int, token_budget: int
) -> Iterator[tuple[str, Figures]]:
    """The four ways, one after another."""
    table, true_lengths = job(name, requests)
    known = replace(table, expected_new_tokens=true_lengths.astype(np.int32))
    size = {"kv_tokens": kv_tokens, "token_budget": token_budget}
    yield "prior", run(table, true_lengths, learns=False, pilots=False, **size)
    yield "online", run(table, true_lengths, learns=True, pilots=False, **size)
    yield "pilot", run(table, true_lengths, learns=True, pilots=True, **size)
    yield "oracle", run(known, true_lengths, learns=False, pilots=False, **size)


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description="What knowing answer lengths brings.")
    parser.add_argument("--job", choices=list(JOBS), default="alike")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--kv-tokens", type=int, default=65_536)
    parser.add_argument("--token-budget", type=int, default=1024)
    options = parser.parse_args()
    results: dict[str, Figures] = {}
    print("| lengths | iterations | preemptions | tokens per iteration | full | computed |", end="")
    print(" within 10/50/90 % | scheduler |")
    print("|---|---|---|---|---|---|---|---|")
    for name, f in compare(options.job, options.requests, options.kv_tokens, options.token_budget):
        results[name] = f
        coverage = " / ".join(f"{share:.0%}" for share in f.coverage) or "-"
        print(
            f"| {name} | {f.iterations:,} | {f.preemptions:,} | {f.tokens:,.1f} | {f.full:.0%} "
            f"| {f.computed:,} | {coverage} | {f.scheduler_ms:.2f} ms |",
            flush=True,
        )
    figures = {name: asdict(f) for name, f in results.items()}
    print(json.dumps({"benchmark": "planner-lengths", **vars(options), "results": figures}))


if __name__ == "__main__":
    main()
