from __future__ import annotations

from hypothesis import given, settings

from shoal.planner import make_plan
from shoal.report.excerpts import Excerpts
from shoal.report.plan_tree import Branch, hidden_line, plan_tree
from tests.helpers.planner_jobs import Job, jobs


def tree(job: Job) -> Branch:
    table = job.table
    plan = make_plan(table)
    return plan_tree(plan, Excerpts(table, lambda ids: " ".join(map(str, ids))))


@settings(deadline=None)
@given(jobs(max_requests=30))
def test_nothing_that_is_saved_gets_lost(job: Job) -> None:
    root = tree(job)
    plan = make_plan(job.table)
    assert root.saved_below == plan.saved_prompt_tokens
    adds_up(root)


def adds_up(root: Branch) -> None:
    for branch in root.walk():
        parts = sum(child.saved_below for child in branch.children) + branch.hidden_saved
        assert branch.saved + parts == branch.saved_below
        assert bool(branch.hidden) == bool(branch.hidden_saved)
        if branch.segment >= 0:
            assert branch.saved == branch.tokens * (branch.sequences - 1)
        below = [child.saved_below for child in branch.children]
        assert below == sorted(below, reverse=True)


def test_a_long_tail_is_summed_up() -> None:
    large = [[1] * 100 for _ in range(100)]
    small = [[10 + i // 2] * 3 for i in range(200)]
    root = tree(Job(large + small))
    assert (root.children[0].sequences, root.children[0].tokens) == (100, 100)
    assert len(root.children) == 3
    assert hidden_line(root, root.saved_below) == "… and 98 more groups, 2.9% of the saving"


def test_a_tree_stays_on_a_screen() -> None:
    words = [[i % 20, 100 + i % 60, 1000 + i % 180, 10_000 + i % 540] for i in range(1080)]
    root = tree(Job(words, run=7))
    lines = sum(len(branch.children) + bool(branch.hidden) for branch in root.walk())
    assert 20 <= lines <= 60
    assert root.hidden == 20 - len(root.children) > 0
    adds_up(root)


def test_deep_chains_end_in_a_sum() -> None:
    root = tree(Job([[1] * (10 * i) for i in range(1, 30)]))
    deepest = list(root.walk())[-1]
    assert deepest.hidden > 1
    assert deepest.hidden_saved == deepest.saved_below - deepest.saved
