"""What the order of groups does to a run: the scheduler against a clock.

    python -m benchmarks.planner.orders [--machine cpu,h200] [--job NAME] [--results]

Prints a Markdown table and a JSON line last. For each job: the workloads of `benchmarks.workloads`
and three synthetic mixes (`benchmarks.planner.mixes`), in each order and in the reverse of
`ratio`. Deterministic.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.models import MODELS, ModelShape
from benchmarks.planner.mixes import tables
from shoal.config import Order
from shoal.costs import BLOCK_SIZE, Costs, Machine, Rates
from shoal.planner import Plan, make_plan, reordered
from shoal.planner.rearrange import with_groups_sorted
from shoal.simulate import SimulatedRun, choose_order, lower_bound, simulate
from shoal.types import RequestTable

RESULTS = Path(__file__).parents[1] / "results" / "planner_orders"
REVERSE = "reverse of ratio"
DRAWN = "decode + prefill"
LLAMA_8B = ModelShape("Llama", 4096, 32, 32, 8, 14_336, 128_256)
"""Llama 3.1 8B, from its config."""


def machine_of(model: ModelShape, rates: Rates, token_budget: int, kv_bytes: int) -> Machine:
    """A model on a machine, weights and KV in bfloat16."""
    head = model.hidden * model.vocabulary
    costs = Costs(
        flops_per_token=2.0 * model.linear_parameters,
        head_flops=2.0 * head,
        attention_flops=4.0 * model.layers * model.heads * model.head_dim,
        weight_bytes=2.0 * (model.linear_parameters + head),
        kv_bytes=float(model.kv_bytes_per_token),
        **asdict(rates),
    )
    blocks = kv_bytes // (model.kv_bytes_per_token * BLOCK_SIZE)
    return Machine(costs, token_budget, blocks * BLOCK_SIZE)


CPU = Rates(
    flops_per_second=1e12,
    bytes_per_second=2e10,
    iteration_seconds=1.2e-3,
    segment_seconds=1e-5,
    use_seconds=1e-6,
)
"""A server's core pair with AMX, about as measured in docs/lab-notes.md."""
H200 = Rates(
    flops_per_second=0.7 * 989e12,
    bytes_per_second=0.8 * 4.8e12,
    iteration_seconds=1e-3,
    segment_seconds=1e-6,
)
"""NVIDIA's H200 SXM data sheet: 989 TFLOP/s of dense bfloat16, of which 70 % are assumed to be
reached, and 4.8 TB/s, 80 %. The overhead is assumed."""
MACHINES = {
    "cpu": machine_of(MODELS["llama-100m"], CPU, 2048, 1 << 30),
    # 141 GB less weights and a reserve.
    "h200": machine_of(LLAMA_8B, H200, 8192, 100 * 10**9),
}


@dataclass(frozen=True)
class Figures:
    """One order of one job on one machine.

    Attributes:
        to_bound: makespan over the lower bound of the job.
        overlapped: makespan in seconds if each iteration took the longer of its compute and its
            memory time, as kernels that overlap both would have it.
        mean_tokens, p10_tokens: tokens per iteration, and the tenth of them with the fewest.
        kept: share of the forest's saved tokens that the order keeps.
    """

    machine: str
    job: str
    order: str
    seconds: float
    to_bound: float
    overlapped: float
    iterations: int
    mean_tokens: float
    p10_tokens: float
    preemptions: int
    kept: float
    auto: bool


def compare(
    name: str, table: RequestTable, machine_name: str
) -> Iterator[tuple[Figures, SimulatedRun]]:
    """A job in every order."""
    machine = MACHINES[machine_name]
    ratio = make_plan(table, machine=machine)
    bound = lower_bound(table, ratio, machine).seconds
    auto = choose_order(table, ratio, machine).order
    plans: dict[str, Plan] = {
        order.value: ratio if order is Order.ratio else reordered(ratio, table, order, machine)
        for order in (Order.input, Order.ratio, Order.blend)
    }
    backwards = -np.arange(len(ratio.groups) - 1, dtype=np.float64)
    plans[REVERSE] = with_groups_sorted(ratio, 0, backwards)
    for order, plan in plans.items():
        run = simulate(table, plan, machine)
        overlapped = np.maximum(run.compute, run.memory).sum()
        figures = Figures(
            machine=machine_name,
            job=name,
            order=order,
            seconds=round(run.seconds, 3),
            to_bound=round(run.seconds / bound, 4),
            overlapped=round(
                float(overlapped) + run.iterations * machine.costs.iteration_seconds, 3
            ),
            iterations=run.iterations,
            mean_tokens=round(float(run.tokens.mean()), 1),
            p10_tokens=float(np.percentile(run.tokens, 10)),
            preemptions=run.preemptions,
            kept=round(plan.saved_prompt_tokens / max(ratio.saved_prompt_tokens, 1), 4),
            auto=order == auto.value,
        )
        yield figures, run


HEADER = """\
| machine | job | order | makespan s | / bound | overlapped s | iterations | tokens per iteration \
| p10 | preemptions | sharing kept |
|---|---|---|---|---|---|---|---|---|---|---|"""


def row(f: Figures) -> str:
    """A line of the table; the order that `auto` takes is bold."""
    order = f"**{f.order}**" if f.auto else f.order
    return (
        f"| {f.machine} | {f.job} | {order} | {f.seconds:,.2f} | {f.to_bound:.3f} "
        f"| {f.overlapped:,.2f} | {f.iterations:,} | {f.mean_tokens:,.0f} | {f.p10_tokens:,.0f} "
        f"| {f.preemptions:,} | {f.kept:.1%} |"
    )


def draw(runs: dict[str, SimulatedRun], base: Path) -> None:
    """Tokens per iteration over time, one row per order."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(runs), 1, sharex=True, sharey=True, figsize=(8, 6), layout="constrained"
    )
    for axis, (order, run) in zip(axes, runs.items(), strict=True):
        ends = np.cumsum(run.durations)
        axis.fill_between(ends, run.tokens, step="pre", linewidth=0)
        axis.set_title(f"{order}: {run.seconds:,.0f} s", loc="left", fontsize=9)
    axes[-1].set_xlabel("seconds")
    figure.supylabel("tokens per iteration")
    figure.savefig(base.with_suffix(".png"), dpi=120)


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description="What the order of groups does to a run.")
    parser.add_argument("--machine", default="cpu,h200", help="some of cpu,h200")
    parser.add_argument("--job", help="only this one")
    parser.add_argument("--results", action="store_true", help=f"write {RESULTS.name}.* too")
    options = parser.parse_args()
    lines, found = [HEADER], []
    drawn: dict[str, SimulatedRun] = {}
    print(HEADER, flush=True)
    for name, table in tables():
        if options.job not in (None, name):
            continue
        for machine in options.machine.split(","):
            for figures, run in compare(name, table, machine):
                found.append(figures)
                lines.append(row(figures))
                print(lines[-1], flush=True)
                if name == DRAWN and machine == "h200":
                    drawn[figures.order] = run
    report = json.dumps({"benchmark": "planner-orders", "results": [asdict(f) for f in found]})
    if options.results:
        command = "`python -m benchmarks.planner.orders --results`; bold: what `auto` takes.\n\n"
        RESULTS.with_suffix(".md").write_text(command + "\n".join(lines) + "\n")
        RESULTS.with_suffix(".json").write_text(report + "\n")
        if drawn:
            draw(drawn, RESULTS)
    print(report)


if __name__ == "__main__":
    main()
