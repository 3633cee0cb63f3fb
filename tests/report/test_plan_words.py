from __future__ import annotations

import pytest
from hypothesis import given, settings

from shoal.planner import make_plan
from shoal.report.plan_words import explanation, segment_levels
from tests.helpers.planner_jobs import Job, jobs


def words(job: Job) -> str:
    return explanation(make_plan(job.table))


def test_one_text_for_all() -> None:
    text = words(Job([[1] * 99 + [10 + i] for i in range(20)]))
    assert text == (
        "94% of the 2,000 prompt tokens stand at the beginning of a prompt as another prompt has "
        "them too, and need not be computed again; 119 are left to compute. It all comes from one "
        "text of 99 tokens that all 20 sequences use."
    )


def test_two_levels_and_some_alone() -> None:
    shared = [[1] * 80 + [10 + i % 4] * 40 + [100 + i] for i in range(20)]
    text = words(Job([*shared, [5], [6]]))
    assert "The first level brings 70% of the saving: one text of 80 tokens" in text
    assert "that 20 sequences use." in text
    assert "A second level brings 30% of the saving: 4 texts of about 40 tokens, each" in text
    assert "about 5 sequences." in text
    assert text.endswith("2 sequences share nothing.")


def test_nothing_shared_and_nothing_at_all() -> None:
    assert words(Job([[1], [2]])) == (
        "No prefix is shared, so all 2 prompt tokens have to be computed."
    )
    assert words(Job([])) == "There is nothing to run."


@pytest.mark.parametrize(("users", "share"), [(10_000, "99.99%"), (300, "99.67%")])
def test_a_share_is_never_rounded_to_all(users: int, share: str) -> None:
    assert words(Job([[1] * 50] * users)).startswith(share)


@settings(deadline=None)
@given(jobs())
def test_levels_count_the_segments_above(job: Job) -> None:
    plan = make_plan(job.table)
    assert segment_levels(plan).tolist() == [
        len(plan.path(s)) - 1 for s in range(plan.num_segments)
    ]
    assert words(job)
