from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner import Plan, make_plan
from shoal.report.icicle import Boxes, Icicle, make_icicle
from shoal.types import RequestTable
from tests.helpers.planner_jobs import Job, jobs


def planned(job: Job) -> tuple[Plan, RequestTable]:
    table = job.table
    return make_plan(table), table


def area(boxes: Boxes) -> float:
    return float(((boxes.right - boxes.left) * (boxes.bottom - boxes.top)).sum())


def column(icicle: Icicle, sequence: int) -> list[tuple[float, float]]:
    """(top, bottom) of everything drawn for a sequence, from the top."""
    found = []
    for boxes in (icicle.segments, icicle.merged, icicle.tails):
        here = boxes.where((boxes.left <= sequence) & (sequence < boxes.right))
        found += list(zip(here.top.tolist(), here.bottom.tolist(), strict=True))
    return sorted(found)


@settings(deadline=None)
@given(jobs(max_requests=20), st.integers(1, 40), st.integers(0, 12))
def test_nothing_overlaps_and_no_area_is_lost(job: Job, columns: int, max_segments: int) -> None:
    plan, table = planned(job)
    icicle = make_icicle(plan, table.lengths, columns=columns, max_segments=max_segments)
    for sequence in range(plan.num_sequences):
        edges = [0.0]
        for top, bottom in column(icicle, sequence):
            assert top == edges[-1] < bottom
            edges.append(bottom)
    parts = (icicle.segments, icicle.merged, icicle.tails)
    assert sum(map(area, parts)) == pytest.approx(plan.prompt_tokens)
    saved = icicle.segment_saved.sum() + icicle.merged_saved.sum()
    assert saved == pytest.approx(plan.saved_prompt_tokens)
    assert len(icicle.segment_ids) <= max_segments


@pytest.mark.long
@settings(deadline=None)
@given(jobs())
def test_with_room_every_sequence_is_drawn_as_it_is(job: Job) -> None:
    plan, table = planned(job)
    icicle = make_icicle(plan, table.lengths, columns=1000, max_segments=1000)
    assert len(icicle.merged.left) == 0
    assert icicle.segment_ids.tolist() == list(range(plan.num_segments))
    assert icicle.segments.top.tolist() == plan.segment_start.tolist()
    assert icicle.segments.right.tolist() == plan.segment_last.tolist()
    for sequence in range(plan.num_sequences):
        length = len(job.prompts[plan.sequence_request[sequence]])
        assert column(icicle, sequence)[-1][1] == length


def test_narrow_segments_merge_below_the_wide_one() -> None:
    # 8 sequences on 2 columns: pairs below a common prefix are narrower than a column.
    job = Job([[1] * 10 + [2 + i // 2] * (4 if i < 4 else 8) + [9 + i] for i in range(8)])
    plan, table = planned(job)
    icicle = make_icicle(plan, table.lengths, columns=2, max_segments=100)
    assert [plan.segment_length[s] for s in icicle.segment_ids] == [10]
    assert [edge.tolist() for edge in icicle.merged] == [[0, 4], [4, 8], [10, 10], [14, 18]]
    assert icicle.merged_saved.tolist() == [8, 16]
    assert [edge.tolist() for edge in icicle.tails] == [[0, 4], [4, 8], [14, 18], [15, 19]]


def test_the_segments_with_the_most_users_are_kept() -> None:
    job = Job([[group] * 10 for group, users in enumerate((2, 5, 3, 4)) for _ in range(users)])
    plan, table = planned(job)
    icicle = make_icicle(plan, table.lengths, columns=100, max_segments=2)
    assert sorted(plan.segment_users[icicle.segment_ids]) == [4, 5]
    assert icicle.merged_saved.sum() == np.sum([10, 20])
