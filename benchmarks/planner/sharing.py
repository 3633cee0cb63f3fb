"""How far simple rules of sharing fall short of the optimum, on random trees.

    python -m benchmarks.planner.sharing [--trees 10000] [--seed 2026] [--results]

Prints a Markdown table and a JSON line last. Deterministic for a number of trees and a seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planner.trees import SHAPES, forest_of
from benchmarks.workloads import common_prefix
from shoal.planner import savings

RULES = ("sort and group", "paper", "single")
"""What is compared: two rules, and the exact single level against the forest."""

OPTIMA = ("single", "forest")

RESULTS = Path(__file__).parents[1] / "results" / "planner_sharing"


def sort_and_group(prompts: list[np.ndarray]) -> int:
    """Tokens saved by sorting the prompts and sharing one prefix per run of neighbours.

    A group is a maximal run of sorted prompts that have at least `threshold` tokens in common
    with the run's first; it shares all that they have in common. To be generous, the threshold
    is the best there is for these prompts.
    """
    ordered = sorted(prompt.tolist() for prompt in prompts)
    # In sorted order, what a run has in common is the least of what its neighbours have.
    common = np.array([common_prefix(a, b) for a, b in pairwise(ordered)], dtype=np.int64)
    return max((_grouped(common, int(t)) for t in np.unique(common[common > 0])), default=0)


def _grouped(common: np.ndarray, threshold: int) -> int:
    """Tokens saved by the runs of neighbours that have at least `threshold` in common."""
    inside = np.append(common >= threshold, False)
    ends = np.flatnonzero(inside & ~np.append(inside[1:], False)) + 1
    starts = np.flatnonzero(inside & ~np.append(False, inside[:-1]))
    runs = zip(starts.tolist(), ends.tolist(), strict=True)
    return sum(int(common[start:end].min()) * (end - start) for start, end in runs)


@dataclass(frozen=True)
class Outcome:
    """Tokens saved on one tree, by rule."""

    shape: str
    requests: int
    saved: dict[str, int]


def outcomes(trees: int, seed: int) -> list[Outcome]:
    """Every rule on random trees, all shapes in turn; trees without sharing are drawn again."""
    rng = np.random.default_rng(seed)
    found: list[Outcome] = []
    names = list(SHAPES)
    while len(found) < trees:
        shape = names[len(found) % len(names)]
        tree = SHAPES[shape](rng)
        if len(tree.node) < 2:
            continue
        prompts = tree.prompts(rng)
        best = savings(forest_of(prompts))
        if best.single == 0:
            continue
        saved = {"sort and group": sort_and_group(prompts), "paper": best.paper}
        saved |= {"single": best.single, "forest": best.forest_max}
        found.append(Outcome(shape, len(prompts), saved))
    return found


def losses(found: list[Outcome], rule: str, optimum: str) -> np.ndarray:
    """Share of the optimum's saved tokens that a rule does not save, per tree."""
    best = np.array([o.saved[optimum] for o in found])
    return 1 - np.array([o.saved[rule] for o in found]) / best


def figures(found: list[Outcome], rule: str, optimum: str) -> dict[str, float]:
    """How often and by how much a rule falls short of an optimum.

    `tokens_lost` is over all trees together, the others over trees, each counting the same.
    """
    lost = losses(found, rule, optimum)
    best = sum(o.saved[optimum] for o in found)
    figures = {
        "short": np.mean(lost > 0),
        "mean": np.mean(lost),
        "p95": np.quantile(lost, 0.95),
        "worst": np.max(lost),
        "tokens_lost": 1 - sum(o.saved[rule] for o in found) / best,
    }
    return {name: round(float(value), 5) for name, value in figures.items()}


def summary(found: list[Outcome]) -> dict[str, Any]:
    """Everything that is reported."""
    pairs = [(rule, optimum) for rule in RULES for optimum in OPTIMA if rule != optimum]
    shapes = {shape: [o for o in found if o.shape == shape] for shape in SHAPES}
    return {
        "trees": len(found),
        "requests": sum(o.requests for o in found),
        "short_of": {f"{r} / {o}": figures(found, r, o) for r, o in pairs},
        "mean_loss": {
            shape: {f"{r} / {o}": figures(some, r, o)["mean"] for r, o in pairs}
            for shape, some in shapes.items()
            if some
        },
    }


def markdown(report: dict[str, Any]) -> str:
    """Two tables: all trees, and the mean loss by shape."""
    lines = [
        f"{report['trees']:,} random trees, {report['requests']:,} requests.",
        "",
        "| rule / optimum | falls short on | mean loss | p95 | worst | tokens lost |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["short_of"].items():
        lines.append(" | ".join([f"| {name}", *(f"{100 * v:.1f} %" for v in row.values())]) + " |")
    pairs = list(report["short_of"])
    lines += ["", "Mean loss by shape:", "", " | ".join(["| shape", *pairs]) + " |"]
    lines.append("|" + "---|" * (len(pairs) + 1))
    for shape, row in report["mean_loss"].items():
        lines.append(" | ".join([f"| {shape}", *(f"{100 * v:.1f} %" for v in row.values())]) + " |")
    return "\n".join(lines)


def write_results(report: dict[str, Any], found: list[Outcome], base: Path) -> list[Path]:
    """Write the figures, the tables and a plot of the losses; their paths."""
    from matplotlib.figure import Figure

    data, text = base.with_suffix(".json"), base.with_suffix(".md")
    data.write_text(json.dumps(report, indent=1) + "\n")
    command = "`python -m benchmarks.planner.sharing --results`"
    text.write_text(f"# Sharing rules against the optimum\n\nMade by {command}.\n\n")
    with text.open("a") as file:
        file.write(markdown(report) + "\n")
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    rules = {"sort and group": "#E69F00", "paper": "#0072B2", "single": "#009E73"}
    for axes, optimum in zip(figure.subplots(1, 2, sharey=True), OPTIMA, strict=True):
        for rule, colour in rules.items():
            if rule != optimum:
                lost = np.sort(losses(found, rule, optimum))[::-1]
                axes.plot(np.linspace(0, 100, len(lost)), 100 * lost, color=colour, label=rule)
        kind = "single level" if optimum == "single" else "forest"
        axes.set(title=f"Against the best {kind}", xlabel="trees, worst first [%]")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("saved tokens lost [%]")
    pictures = [base.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in pictures:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return [data, text, *pictures]


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--results", action="store_true", help=f"write {RESULTS.name}.* too")
    options = parser.parse_args(arguments)
    found = outcomes(options.trees, options.seed)
    report = {"seed": options.seed, **summary(found)}
    print(markdown(report))
    if options.results:
        for path in write_results(report, found, RESULTS):
            print(f"wrote {path}", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
