"""Table and plot of the newest full record of each model and workload."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.evaluations import EVALUATIONS
from benchmarks.peers.client import OURS
from benchmarks.runner import Record
from benchmarks.workloads import SPECS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_INK, _MUTED = "#1b1f24", "#59636e"


def write_report(records: Path) -> list[Path]:
    """Write `records`' table, and a plot as PNG and SVG, beside it; their paths."""
    latest = newest([json.loads(line) for line in records.read_text().splitlines()])
    if not latest:
        return []
    table = records.with_suffix(".md")
    table.write_text(markdown(latest, records.name))
    shown = [record for record in latest if record["workload"] in SPECS]
    if not shown:
        return [table]
    figure = ratios_figure(shown)
    pictures = [records.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in pictures:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return [table, *pictures]


def newest(records: list[Record]) -> list[Record]:
    """The last full-scale record of each model and workload, of the last record's processor.

    One without peers counts only where there is no other.
    """
    full = [record for record in records if record["scale"] == 1]
    full = sorted(full, key=lambda record: bool(record["peers"]))
    chosen = {(r["model"], r["workload"]): r for r in full if r["cpu"] == full[-1]["cpu"]}
    models = list(dict.fromkeys(model for model, _ in chosen))
    return [
        chosen[model, workload]
        for model in models
        for workload in (*SPECS, *EVALUATIONS)
        if (model, workload) in chosen
    ]


def markdown(records: list[Record], file: str) -> str:
    """One table per model; `file`: where the records are."""
    text = ["# Shoal and its peers on a CPU", ""]
    text += [f"Made by `make bench`; the records are in `{file}`.", ""]
    text += [f"Machine: {records[-1]['cpu']}, {records[-1]['threads']} threads.", ""]
    for model in dict.fromkeys(record["model"] for record in records):
        of_model = [r for r in records if r["model"] == model]
        for title, names in ((model, SPECS), (f"{model}: evaluations", EVALUATIONS)):
            if chosen := [r for r in of_model if r["workload"] in names]:
                text += _model_table(title, chosen)
    return "\n".join(text)


def _model_table(model: str, records: list[Record]) -> list[str]:
    peers = _peers(records)
    head = ["workload", "Shoal, s", *[f"{peer}, s (ratio)" for peer in peers]]
    head += ["roofline", "tokens/s", "matrix products, GFLOP/s", "greedy agreement", "rounds"]
    head += ["peak memory, GiB"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for r in records:
        times = [
            f"{r['peers'][p]:.1f} ({r['ratios'][p]:.2f})" if p in r["peers"] else "" for p in peers
        ]
        agreement = [f"{_share(each):.0%}" for each in r["agreement"].values()]
        rows.append(
            [
                r["workload"],
                f"{r['ours_seconds']:.1f}",
                *times,
                f"{r['roofline_fraction']:.0%}",
                f"{r['tokens_per_second'][OURS]:.0f}",
                f"{r['matmul_gflops']:.0f}",
                " / ".join(agreement) or "sampled",
                str(len(r["rounds"][OURS])),
                " / ".join(f"{size / 2**30:.1f}" for size in r["peak_rss_bytes"].values()),
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    means = [f"{peer} {mean:.2f}" for peer in peers if (mean := _mean_ratio(records, peer))]
    notes = [f"Geometric mean of the ratios: {', '.join(means)}.", ""] if means else []
    versions = [
        f"{e} {v.get(e, v.get(f'{e}-cpu', ''))}" for e, v in records[-1]["versions"].items()
    ]
    dates = sorted({r["date"][:10] for r in records})
    notes += [
        "Medians in seconds; the ratio is the peer's time divided by Shoal's. Roofline: the share "
        "of Shoal's time that the necessary arithmetic takes at the rate of matrix products "
        "measured in the same run. Greedy agreement: mean share of a request's tokens before the "
        "first that differs from Shoal's, per peer; of scores, share of questions with the same "
        "likeliest choice. Tokens are those generated; of scores, those of the prompts. Peak "
        f"memory: {' / '.join(records[-1]['peak_rss_bytes'])}." + _among_peers(records),
        "",
        f"{', '.join(versions)}; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}.",
        "",
    ]
    return [f"## {model}", "", *lines, "", *notes]


def _among_peers(records: list[Record]) -> str:
    """How far the peers agree with one another, to judge the agreement with Shoal by."""
    shares: dict[str, list[float]] = {}
    for record in records:
        for pair, agreement in record["peer_agreement"].items():
            shares.setdefault(pair, []).append(_share(agreement))
    means = [f"{' and '.join(p.split())} {sum(s) / len(s):.0%}" for p, s in shares.items()]
    return f" Among peers, mean over workloads: {', '.join(means)}." if means else ""


def _share(agreement: dict[str, float]) -> float:
    """What of an agreement the table shows."""
    return agreement.get("common_prefix", agreement.get("same_choice", 0.0))


def _peers(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(peer for record in records for peer in record["peers"]))


def _mean_ratio(records: list[Record], peer: str) -> float | None:
    ratios = [record["ratios"][peer] for record in records if peer in record["ratios"]]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def ratios_figure(records: list[Record]) -> Figure:
    """Per model, seconds of each peer divided by Shoal's, and the fraction of the roofline."""
    models = list(dict.fromkeys(record["model"] for record in records))
    figure = Figure(figsize=(9, 3.4 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), model in zip(grid, models, strict=True):
        chosen = [record for record in records if record["model"] == model]
        _draw_ratios(left, chosen, model)
        _draw_roofline(right, chosen)
    return figure


def _draw_ratios(axes: Axes, records: list[Record], model: str) -> None:
    peers = _peers(records)
    width = 0.8 / max(len(peers), 1)
    for place, peer in enumerate(peers):
        at = [i + (place - (len(peers) - 1) / 2) * width for i in range(len(records))]
        ratios = [record["ratios"].get(peer, 0) for record in records]
        bars = axes.bar(at, ratios, width * 0.92, color=_COLOURS[place], label=peer)
        axes.bar_label(bars, [f"{r:.2f}" if r else "" for r in ratios], fontsize=7, color=_INK)
    axes.axhline(1, color=_INK, linewidth=1)
    axes.set_title(f"{model}: time of the peer, in Shoal's times", loc="left", fontsize=10)
    if peers:
        axes.set_ylim(top=1.25 * max(1, *axes.get_ylim()))
        axes.legend(frameon=False, fontsize=8, ncols=len(peers), loc="upper right")
    _finish(axes, records)


def _draw_roofline(axes: Axes, records: list[Record]) -> None:
    fractions = [record["roofline_fraction"] for record in records]
    bars = axes.bar(range(len(records)), fractions, 0.6, color=_COLOURS[2])
    axes.bar_label(bars, [f"{f:.0%}" for f in fractions], fontsize=7, color=_INK)
    axes.set_ylim(0, max(1.0, *fractions) * 1.08)
    axes.axhline(1, color=_INK, linewidth=1)
    axes.set_title("Shoal: fraction of the roofline", loc="left", fontsize=10)
    _finish(axes, records)


def _finish(axes: Axes, records: list[Record]) -> None:
    names = [record["workload"] for record in records]
    axes.set_xticks(range(len(records)), names, rotation=30, ha="right", fontsize=8)
    axes.tick_params(colors=_MUTED, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
