"""The curve of the scale benchmark: seconds and memory against the number of requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.planner.measure import Record

_COLOURS = ("#0072B2", "#E69F00")
_ANCHOR = 100_000
_INK, _MUTED = "#1b1f24", "#59636e"


def draw_curve(records: list[Record], beside: Path) -> list[Path]:
    """Draw the records as PNG and SVG with the name of `beside`; their paths."""
    figure = curve_figure(records)
    paths = [beside.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths


def curve_figure(records: list[Record]) -> Figure:
    """Seconds on the left, bytes on the right; a line per prompt length, and N log N."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, records, "seconds")
    _draw(right, records, "anonymous_bytes")
    left.set_title("seconds from file to plan", loc="left", fontsize=10)
    right.set_title("peak memory, bytes (without mapped file)", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, records: list[Record], field: str) -> None:
    lengths = list(dict.fromkeys(_length(record) for record in records))
    for colour, length in zip(_COLOURS, lengths, strict=True):
        chosen = [record for record in records if _length(record) == length]
        sizes = np.array([record["requests"] for record in chosen])
        values = np.array([record[field] for record in chosen])
        axes.loglog(sizes, values, "o-", color=colour, markersize=4, label=f"{length} tokens each")
        # Through the size from which on fixed costs no longer matter.
        bound = sizes * np.log(sizes)
        anchor = np.searchsorted(sizes, _ANCHOR) if sizes[-1] >= _ANCHOR else -1
        label = "N log N, through 10^5" if length == lengths[0] else None
        scale = values[anchor] / bound[anchor]
        axes.loglog(sizes, bound * scale, ":", color=colour, linewidth=1, label=label)
    axes.set_xlabel("requests", fontsize=8, color=_INK)
    axes.tick_params(colors=_MUTED, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _length(record: Record) -> int:
    return int(record["tokens"] // record["requests"])
