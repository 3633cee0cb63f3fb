"""The pictures of a report: the token batches of a run, and the prefix forest of a plan.

They need matplotlib, the optional extra `report`. Figures are plain objects; pyplot and its
global state are never touched.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.engine.trace import IterationTrace
from shoal.errors import OptionError
from shoal.planner import Plan
from shoal.report.icicle import Boxes, Float64Array, Icicle, make_icicle
from shoal.report.units import TIMES, plural
from shoal.types import Int64Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct for every kind of colour vision; below what is above.
_KINDS = {
    "decode": ("answers (decode)", "#0072B2"),
    "own": ("own prompt parts", "#E69F00"),
    "shared": ("shared prefixes", "#009E73"),
}
_INK, _MUTED, _LIMIT, _TAIL = "#1b1f24", "#59636e", "#b42318", "#d8dde3"
_BARS = 400
_COLUMNS = 800
_SEAMLESS = {"edgecolors": "face", "linewidths": 0.2}
_LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "borderaxespad": 0.2,
    "frameon": False,
    "fontsize": 9,
    "handlelength": 1,
    "handleheight": 1,
    "labelcolor": _INK,
}
_CHARACTER_WIDTH, _CHARACTER_HEIGHT = 0.0095, 0.05
"""Of the plan's width and height."""
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def token_batches_figure(trace: IterationTrace, *, token_budget: int, num_blocks: int) -> Figure:
    """What the iterations of a run held: tokens by kind, running sequences, KV blocks.

    Beyond a few hundred iterations, neighbours share a bar: the mean of their tokens, and the
    most sequences and blocks.

    Args:
        num_blocks: KV blocks in the pool.

    Raises:
        OptionError: matplotlib is not installed.
    """
    figure = _figure(height=5.4)
    tokens, running, blocks = figure.subplots(3, sharex=True, height_ratios=[3, 1, 1])
    _style(tokens, running, blocks)
    length = max(len(trace), 1)
    size = -(-length // _BARS)
    edges = np.append(np.arange(0, length, size), length)
    _draw_tokens(tokens, trace, edges, token_budget)
    _draw_level(running, _binned(np.maximum, trace, "running", edges), edges)
    _draw_level(blocks, _binned(np.maximum, trace, "kv_blocks", edges), edges)
    running.set_ylabel("sequences\nrunning")
    blocks.set_ylabel("KV blocks\nin use")
    _draw_limit(blocks, num_blocks, f"the pool: {num_blocks:,} blocks")
    blocks.set_xlabel("iteration" if size == 1 else f"iteration, {size:,} to a bar")
    blocks.set_xlim(0, length)
    figure.align_ylabels()
    total = sum(float(trace.column(kind).sum()) for kind in _KINDS)
    count = f"{len(trace):,} {plural('iteration', len(trace))}"
    used = total / (length * token_budget)
    _headline(figure, f"{total:,.0f} tokens in {count}, {used:.0%} of the token budget")
    return figure


def plan_figure(plan: Plan, prompt_lengths: Int64Array, *, max_segments: int = 2000) -> Figure:
    """The prefix forest in the order it runs, as an icicle: shared prefixes hang from the top.

    Args:
        prompt_lengths: tokens of each request's prompt, [N]: `RequestTable.lengths`.
        max_segments: most segments drawn one by one; those with fewer users are merged.

    Raises:
        OptionError: matplotlib is not installed.
    """
    figure = _figure(height=4.4)
    axes = figure.subplots()
    _style(axes)
    icicle = make_icicle(plan, prompt_lengths, columns=_COLUMNS, max_segments=max_segments)
    boxes = (icicle.segments, icicle.merged, icicle.tails)
    depth = max(float(box.bottom.max(initial=1)) for box in boxes)
    axes.set_xlim(0, max(plan.num_sequences, 1))
    axes.set_ylim(depth, 0)
    _add_boxes(axes, icicle.tails, facecolors=_TAIL, **_SEAMLESS)
    if plan.num_segments:
        _draw_segments(axes, plan, icicle)
        _explain_boxes(axes)
    axes.set_xlabel("sequence, in the order to run")
    axes.set_ylabel("prompt token")
    _headline(figure, _plan_headline(plan))
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as a standalone SVG file, the same bytes every time."""
    from matplotlib import rc_context

    file = BytesIO()
    with rc_context({"svg.hashsalt": "shoal"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def require_matplotlib() -> None:
    """Check before a long run that its pictures can be drawn.

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401  (only whether it is there)
    except ImportError:
        raise OptionError(
            "pictures need matplotlib, which is not installed: pip install 'shoal[report]'"
        ) from None


def _figure(height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(10, height), layout="constrained", facecolor="white")


def _style(*several: Axes) -> None:
    """Quiet frames, and whole numbers with thousands separators."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for axes in several:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_MUTED)
        axes.tick_params(colors=_MUTED, labelsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_major_locator(
                MaxNLocator(8 if axis is axes.xaxis else 5, integer=True, steps=[1, 2, 5, 10])
            )
            axis.label.set_color(_INK)


def _headline(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)


def _draw_tokens(axes: Axes, trace: IterationTrace, edges: Int64Array, token_budget: int) -> None:
    base = np.zeros(len(edges) - 1)
    for kind, (label, color) in _KINDS.items():
        top = base + _binned(np.add, trace, kind, edges) / np.diff(edges)
        axes.stairs(top, edges, baseline=base, fill=True, color=color, label=label)
        base = top
    _draw_limit(axes, token_budget, f"token budget: {token_budget:,}")
    axes.set_ylabel("tokens per iteration")
    axes.legend(ncols=3, reverse=True, **_LEGEND)


def _binned(
    reduce: np.ufunc, trace: IterationTrace, column: str, edges: Int64Array
) -> Float64Array:
    """A column of the trace, reduced to one value between each two edges."""
    # A run of which every iteration failed has an empty trace.
    values = trace.column(column) if len(trace) else np.zeros(1)
    bins: Float64Array = reduce.reduceat(values, edges[:-1])
    return bins


def _draw_level(axes: Axes, most: Float64Array, edges: Int64Array) -> None:
    axes.stairs(most, edges, fill=True, color="#c3cad3")
    axes.stairs(most, edges, baseline=None, color=_MUTED, linewidth=1)
    axes.set_ylim(0, max(float(most.max()), 1) * 1.08)


def _draw_limit(axes: Axes, limit: int, text: str) -> None:
    """A line across, with its name above it and room for that."""
    axes.axhline(limit, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        text,
        (1, limit),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9,
        color=_LIMIT,
    )
    inches = axes.get_position().height * axes.figure.get_figure(root=True).get_figheight()
    axes.set_ylim(0, max(limit, axes.dataLim.y1) * (1 + 0.25 / inches))


def _add_boxes(axes: Axes, boxes: Boxes, **style: Any) -> PolyCollection:
    from matplotlib.collections import PolyCollection

    x = np.stack([boxes.left, boxes.right, boxes.right, boxes.left], axis=1)
    y = np.stack([boxes.top, boxes.top, boxes.bottom, boxes.bottom], axis=1)
    collection = PolyCollection(list(np.stack([x, y], axis=2)), **style)
    axes.add_collection(collection, autolim=False)
    return collection


def _saved_colors() -> ListedColormap:
    """Viridis without its glaring ends, darker the more is saved."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis_r"](np.linspace(0.08, 0.95, 256)))


def _draw_segments(axes: Axes, plan: Plan, icicle: Icicle) -> None:
    """Shared prefixes coloured by what they save, and the scale of it."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import EngFormatter, LogLocator

    saved = np.concatenate([icicle.segment_saved, icicle.merged_saved])
    least, most = float(saved.min()), float(saved.max())
    mapping: dict[str, Any] = {
        "cmap": _saved_colors(),
        "norm": LogNorm(min(least, most / 10), most),
    }
    _add_boxes(axes, icicle.merged, array=icicle.merged_saved, **_SEAMLESS, **mapping)
    width = (icicle.segments.right - icicle.segments.left) / plan.num_sequences
    height = (icicle.segments.bottom - icicle.segments.top) / axes.get_ylim()[0]
    thickness = np.clip(50 * np.minimum(width, height), 0.05, 0.7)
    borders = {"edgecolors": "white", "linewidths": thickness}
    shown = _add_boxes(axes, icicle.segments, array=icicle.segment_saved, **borders, **mapping)
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.02, aspect=30, format=EngFormatter(sep=""))
    bar.locator = LogLocator(subs=(1, 3))
    bar.set_label("tokens saved by a shared prefix")
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(colors=_MUTED, labelsize=9)
    _label_segments(axes, plan, icicle, shown.to_rgba(icicle.segment_saved))


def _label_segments(axes: Axes, plan: Plan, icicle: Icicle, colors: Float64Array) -> None:
    """Tokens times sequences, on the rectangles with room for it."""
    depth = axes.get_ylim()[0]
    boxes = np.stack(icicle.segments, axis=1)
    for (left, right, top, bottom), segment, color in zip(
        boxes, icicle.segment_ids, colors, strict=True
    ):
        text = f"{plan.segment_length[segment]:,} {TIMES} {plan.segment_users[segment]:,}"
        wide = (right - left) / plan.num_sequences > _CHARACTER_WIDTH * (len(text) + 1)
        if wide and (bottom - top) / depth > _CHARACTER_HEIGHT:
            ink = "white" if color[:3] @ _LUMINANCE < 0.6 else _INK
            center = (left + right) / 2, (top + bottom) / 2
            axes.text(*center, text, ha="center", va="center", color=ink, fontsize=9)


def _explain_boxes(axes: Axes) -> None:
    from matplotlib.patches import Patch

    shared = Patch(color=_saved_colors()(0.5), label=f"shared prefix (tokens {TIMES} sequences)")
    own = Patch(color=_TAIL, label="a sequence's own part")
    axes.legend(handles=[shared, own], ncols=2, **_LEGEND)


def _plan_headline(plan: Plan) -> str:
    sequences = f"{plan.num_sequences:,} {plural('sequence', plan.num_sequences)}"
    if not plan.num_segments:
        return (
            f"{sequences} and no shared prefix: all {plan.prompt_tokens:,} prompt tokens computed"
        )
    shared = (
        "1 shared prefix saves"
        if plan.num_segments == 1
        else f"{plan.num_segments:,} shared prefixes save"
    )
    share = plan.saved_prompt_tokens / plan.prompt_tokens
    return f"{sequences}: {shared} {share:.0%} of {plan.prompt_tokens:,} prompt tokens"
