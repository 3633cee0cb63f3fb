"""The rules that sharing is compared with, and the report."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planner.sharing import main, outcomes, sort_and_group, summary, write_results
from benchmarks.planner.trees import SHAPES, forest_of
from benchmarks.workloads import common_prefix
from shoal.planner import savings


def by_definition(prompts: list[list[int]]) -> int:
    """Sort and group as it is defined, one prompt at a time, for every threshold."""
    ordered, best = sorted(prompts), 0
    for threshold in range(1, max(map(len, prompts)) + 1):
        saved, group = 0, [ordered[0]]
        for prompt in [*ordered[1:], []]:
            if common_prefix(group[0], prompt) >= threshold:
                group.append(prompt)
                continue
            shared = min(common_prefix(group[0], member) for member in group)
            saved += (len(group) - 1) * shared
            group = [prompt]
        best = max(best, saved)
    return best


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=12))
def test_sort_and_group_follows_its_definition(prompts: list[list[int]]) -> None:
    assert sort_and_group([np.array(p) for p in prompts]) == by_definition(prompts)


@pytest.mark.parametrize("shape", SHAPES)
def test_trees_become_the_forests_they_describe(shape: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        tree = SHAPES[shape](rng)
        assert (tree.parent < np.arange(len(tree.parent))).all()
        if len(tree.node) < 2:
            continue
        users = np.zeros(len(tree.parent), dtype=int)
        for node in tree.node.tolist():
            while node >= 0:
                users[node] += 1
                node = int(tree.parent[node])
        saved = int((tree.tokens * np.maximum(users - 1, 0)).sum())
        assert savings(forest_of(tree.prompts(rng))).forest_max == saved


def test_no_rule_beats_the_optima() -> None:
    for outcome in outcomes(60, seed=3):
        saved = outcome.saved
        assert max(saved["sort and group"], saved["paper"]) <= saved["single"] <= saved["forest"]


def test_reports_repeat_and_end_with_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--trees", "30"])
    first = capsys.readouterr().out
    main(["--trees", "30"])
    assert capsys.readouterr().out == first
    report = json.loads(first.splitlines()[-1])
    assert report["trees"] == 30
    assert set(report["mean_loss"]) == set(SHAPES)
    assert 0 < report["short_of"]["paper / single"]["short"] < 1
    assert "| paper / single | " in first


def test_results_are_written(tmp_path) -> None:
    found = outcomes(12, seed=1)
    paths = write_results(summary(found), found, tmp_path / "sharing")
    assert [path.suffix for path in paths] == [".json", ".md", ".png", ".svg"]
    assert all(path.stat().st_size > 100 for path in paths)
