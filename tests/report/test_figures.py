from __future__ import annotations

import subprocess
import sys
from itertools import product
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from shoal.engine.trace import IterationTrace
from shoal.errors import OptionError
from shoal.planner import make_plan
from shoal.report.figures import plan_figure, require_matplotlib, svg, token_batches_figure
from tests.helpers.planner_jobs import Job
from tests.helpers.report_runs import Ran, run, tickets


def batches(ran: Ran) -> Figure:
    return token_batches_figure(
        ran.trace, token_budget=ran.machine.token_budget, num_blocks=ran.machine.num_blocks
    )


def bars(figure: Figure, panel: int) -> list[StepPatch]:
    return [patch for patch in figure.axes[panel].patches if isinstance(patch, StepPatch)]


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def test_bars_stack_the_tokens_of_each_iteration() -> None:
    ran = run(tickets())
    stacked = bars(batches(ran), 0)
    below = 0
    for patch, kind in zip(stacked, ("decode", "own", "shared"), strict=True):
        top, edges, base = patch.get_data()
        assert np.allclose(top - base, ran.trace.column(kind))
        assert np.allclose(base, below)
        below = top
        assert edges.tolist() == list(range(len(ran.trace) + 1))
    assert [patch.get_label() for patch in stacked] == [
        "answers (decode)",
        "own prompt parts",
        "shared prefixes",
    ]
    assert len({patch.get_facecolor() for patch in stacked}) == 3


def test_levels_and_limits() -> None:
    ran = run(tickets(), token_budget=40, num_blocks=100)
    figure = batches(ran)
    for panel, name in ((1, "running"), (2, "kv_blocks")):
        assert np.allclose(bars(figure, panel)[0].get_data().values, ran.trace.column(name))
    for panel, limit in ((0, 40), (2, 100)):
        axes = figure.axes[panel]
        assert [line.get_ydata()[0] for line in axes.lines] == [limit]
        assert axes.get_ylim()[1] > limit
        assert str(limit) in axes.texts[0].get_text()
    total = ran.plan.computed_prompt_tokens + 60 * 7
    used = f"{total / len(ran.trace) / 40:.0%}"
    assert (
        title(figure)
        == f"{total:,} tokens in {len(ran.trace)} iterations, {used} of the token budget"
    )


@pytest.mark.long
def test_many_iterations_share_bars() -> None:
    ran = run(Job([[1, 2, 3]] * 2, max_new=1003))
    figure = batches(ran)
    assert len(ran.trace) == 1003
    top, edges, base = bars(figure, 0)[0].get_data()
    assert len(top) <= 400
    assert edges[0] == 0
    assert edges[-1] == 1003
    assert ((top - base) * np.diff(edges)).sum() == pytest.approx(ran.trace.column("decode").sum())
    assert bars(figure, 1)[0].get_data().values.max() == 2
    assert "3 to a bar" in figure.axes[2].get_xlabel()


def test_a_trace_without_iterations() -> None:
    figure = token_batches_figure(IterationTrace(), token_budget=8, num_blocks=4)
    assert svg(figure)
    assert title(figure).startswith("0 tokens in 0 iterations")


def boxes(figure: Figure) -> list[np.ndarray]:
    """(left, top, right, bottom) of all rectangles, per collection."""
    collections = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    corners = [np.array([path.vertices for path in c.get_paths()]) for c in collections]
    return [np.concatenate([c[:, 0], c[:, 2]], axis=1) for c in corners if len(c)]


def test_the_plan_is_drawn_to_scale() -> None:
    ran = run(tickets())
    figure = plan_figure(ran.plan, ran.prompt_lengths)
    tails, segments = boxes(figure)
    assert len(segments) == ran.plan.num_segments == 9
    assert segments[:, 0].tolist() == ran.plan.segment_first.tolist()
    assert segments[:, 3].tolist() == ran.plan.segment_end.tolist()
    assert len(tails) == ran.plan.num_sequences
    assert tails[:, 3].max() == figure.axes[0].get_ylim()[0] == ran.prompt_lengths.max()
    share = f"{ran.plan.saved_prompt_tokens / ran.plan.prompt_tokens:.0%}"
    assert title(figure).startswith(f"60 sequences: 9 shared prefixes save {share} of ")
    assert figure.axes[1].get_ylabel() == "tokens saved by a shared prefix"


WIDE = [[group] * 100 for group in range(3) for _ in range(10)]
NARROW = [[10 + group] * 100 for group in range(8) for _ in range(2)]


def test_labels_stay_in_their_rectangles() -> None:
    ran = run(Job(WIDE + NARROW))
    figure = plan_figure(ran.plan, ran.prompt_lengths)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["100 × 10"] * 3  # noqa: RUF001  (the times sign is meant)
    for text in axes.texts:
        extent = text.get_window_extent(canvas.get_renderer())
        (left, bottom), (right, top) = axes.transData.inverted().transform(extent.get_points())
        assert any(
            left > box[0] and top > box[1] and right < box[2] and bottom < box[3]
            for box in boxes(figure)[-1]
        )


@pytest.mark.parametrize(
    ("prompts", "headline"),
    [
        ([[1, 2, 3]], "1 sequence and no shared prefix: all 3 prompt tokens computed"),
        ([[1] * 90] * 2, "2 sequences: 1 shared prefix saves 50% of 180 prompt tokens"),
        ([], "0 sequences and no shared prefix: all 0 prompt tokens computed"),
    ],
)
def test_the_smallest_plans(prompts: list[list[int]], headline: str) -> None:
    table = Job(prompts).table
    figure = plan_figure(make_plan(table), table.lengths)
    assert title(figure) == headline
    assert svg(figure)


@pytest.mark.long
def test_a_large_plan_stays_a_small_picture() -> None:
    groups = product(range(60), range(40), range(30))
    table = Job([[a] * 60 + [b] * 40 + [c] for a, b, c in groups]).table
    plan = make_plan(table)
    figure = plan_figure(plan, table.lengths)
    assert plan.num_segments > 2000
    assert sum(map(len, boxes(figure))) < 4000
    assert len(svg(figure)) < 1_500_000


@pytest.mark.long
def test_svg_is_deterministic_and_complete() -> None:
    ran = run(tickets())
    for draw in (lambda: batches(ran), lambda: plan_figure(ran.plan, ran.prompt_lengths)):
        content = svg(draw())
        assert content == svg(draw())
        root = ElementTree.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        names = [name for node in root.iter() for name in node.attrib if name.endswith("href")]
        targets = {
            node.attrib[name] for node in root.iter() for name in names if name in node.attrib
        }
        assert all(target.startswith(("#", "data:")) for target in targets), "nothing external"


@pytest.mark.long
def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from shoal.report.figures import *; from shoal.report.figures import svg\n"
        "from shoal.engine.trace import IterationTrace\n"
        "assert 'matplotlib' not in sys.modules\n"
        "svg(token_batches_figure(IterationTrace(), token_budget=1, num_blocks=1))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        require_matplotlib,
        lambda: token_batches_figure(IterationTrace(), token_budget=1, num_blocks=1),
    ):
        with pytest.raises(OptionError, match=r"pip install 'shoal\[report\]'"):
            call()
