"""The fleet's efficiency against the number of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LINES = {"even": "#0072B2", "halves": "#E69F00", "stragglers": "#CC79A7"}
_NAMES = {
    "even": "devices alike",
    "halves": "half of them half as fast",
    "stragglers": "one of 64 a tenth as fast",
}
_MARKERS = "osD^"
_INK, _MUTED = "#1b1f24", "#59636e"


def draw_fleet(records: list[dict[str, Any]], path: Path) -> None:
    """A panel per shape; a line for each number of requests and each kind of devices."""
    shapes = list(dict.fromkeys(record["shape"] for record in records))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
    for axes, shape in zip(panels, shapes, strict=True):
        _draw(axes, [record for record in records if record["shape"] == shape])
        axes.set_title(f"{shape}: efficiency", loc="left", fontsize=10, color=_INK)
    panels[-1].legend(frameon=False, fontsize=7, loc="lower left")
    figure.savefig(path, metadata={"Date": None})


def _draw(axes: Axes, records: list[dict[str, Any]]) -> None:
    sizes = sorted({record["requests"] for record in records})
    for marker, size in zip(_MARKERS, sizes, strict=False):
        for kind, colour in _LINES.items():
            line = [
                (record["devices"], record["efficiency"])
                for record in records
                if record["requests"] == size and (record["kind"] == kind or record["devices"] == 1)
            ]
            label = f"{size:,} requests, {_NAMES[kind]}"
            style = f"{marker}-" if len(line) > 1 else marker
            axes.plot(*zip(*line, strict=True), style, color=colour, markersize=4, label=label)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.03)
    ticks = sorted({record["devices"] for record in records})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("devices", fontsize=8, color=_INK)
    axes.tick_params(colors=_MUTED, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4)
