"""Plans made of plans still tell every sequence its own prompt, and count what they compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.planner import Plan, make_plan, spread
from shoal.planner.rearrange import with_first, with_groups_sorted
from tests.helpers.planner_jobs import Job, jobs


def check(job: Job, plan: Plan) -> None:
    """The invariants of `Plan`."""
    choices = list(zip(plan.sequence_request.tolist(), plan.sequence_choice.tolist(), strict=True))
    expected = [(r, c) for r, n in enumerate(job.choices) for c in range(n)]
    assert sorted(choices) == expected
    for segment in range(plan.num_segments):
        parent = int(plan.segment_parent[segment])
        assert parent < segment
        assert plan.segment_start[segment] == (0 if parent < 0 else plan.segment_end[parent])
        users = [
            q
            for q in range(plan.num_sequences)
            if segment in plan.path(int(plan.sequence_segment[q]))
        ]
        first, last = int(plan.segment_first[segment]), int(plan.segment_last[segment])
        assert users == list(range(first, last))
        assert len(users) >= 2
    assert (np.diff(plan.segment_first) >= 0).all()
    for q, request in enumerate(plan.sequence_request.tolist()):
        prompt: list[int] = []
        for segment in plan.path(int(plan.sequence_segment[q])):
            start, end = int(plan.segment_start[segment]), int(plan.segment_end[segment])
            prompt += job.prompts[plan.segment_request[segment]][start:end]
        assert prompt == job.prompts[request][: len(prompt)]
    own = job.table.lengths[plan.sequence_request] - plan.shared_length
    assert plan.computed_prompt_tokens == own.sum() + plan.segment_length.sum()
    assert plan.prompt_tokens == job.table.lengths[plan.sequence_request].sum()


@pytest.mark.long
@settings(max_examples=200)
@given(jobs(), st.sampled_from([Sharing.forest, Sharing.single, Sharing.none]), st.data())
def test_some_requests_first(job: Job, sharing: Sharing, data: st.DataObject) -> None:
    plan = make_plan(job.table, sharing=sharing, order=Order.ratio)
    chosen = np.array([data.draw(st.booleans()) for _ in job.choices])[plan.sequence_request]
    moved = with_first(plan, chosen, job.table)
    check(job, moved)
    names = np.stack([plan.sequence_request, plan.sequence_choice])
    together = np.concatenate([names[:, chosen], names[:, ~chosen]], axis=1)
    assert np.array_equal(np.stack([moved.sequence_request, moved.sequence_choice]), together)
    for part in (chosen, ~chosen):
        if part.all():
            assert moved == plan


@pytest.mark.long
@settings(max_examples=200)
@given(jobs(), st.data())
def test_groups_in_another_order(job: Job, data: st.DataObject) -> None:
    plan = make_plan(job.table, order=Order.input)
    bounds = plan.groups.tolist()
    begin = data.draw(st.integers(0, len(bounds) - 1))
    key = data.draw(st.permutations(range(len(bounds) - 1 - begin)))
    moved = with_groups_sorted(plan, begin, np.array(key, dtype=np.float64))
    check(job, moved)
    assert moved.computed_prompt_tokens == plan.computed_prompt_tokens
    order = list(range(begin)) + [begin + int(i) for i in np.argsort(key)]
    sequences = [q for g in order for q in range(bounds[g], bounds[g + 1])]
    assert np.array_equal(moved.sequence_request, plan.sequence_request[sequences])
    kept = int((plan.segment_first < bounds[begin]).sum())
    for name in ("segment_parent", "segment_first", "segment_last", "segment_request"):
        assert np.array_equal(getattr(moved, name)[:kept], getattr(plan, name)[:kept])
    same = with_groups_sorted(plan, begin, np.zeros(len(bounds) - 1 - begin))
    assert same == plan


def test_what_both_parts_share_is_computed_for_each() -> None:
    job = Job([[1, 1, 2], [1, 1, 3], [1, 1, 4], [1, 1, 5]], run=50)
    plan = make_plan(job.table, order=Order.input)
    chosen = np.isin(plan.sequence_request, [1, 3])
    moved = with_first(plan, chosen, job.table)
    assert moved.computed_prompt_tokens == plan.computed_prompt_tokens + 100
    assert moved.sequence_request.tolist() == [1, 3, 0, 2]
    alone = with_first(plan, plan.sequence_request == 1, job.table)
    assert alone.num_segments == 1, "what one sequence alone uses is its own"
    assert replace(alone, order=plan.order) == alone


@pytest.mark.long
@settings(max_examples=200)
@given(jobs(), st.sampled_from(Sharing))
def test_a_spread_plan_is_the_same_but_for_the_order(job: Job, sharing: Sharing) -> None:
    plan = make_plan(job.table, sharing=sharing)
    other = spread(plan, job.table)
    check(job, other)
    assert other.computed_prompt_tokens == plan.computed_prompt_tokens
    assert sorted(other.segment_length.tolist()) == sorted(plan.segment_length.tolist())
    names = np.stack([other.sequence_request, other.sequence_choice])
    assert set(map(tuple, names.T.tolist())) == {
        (r, c) for r, n in enumerate(job.choices) for c in range(n)
    }
    assert spread(plan, job.table) == other


def test_every_stretch_of_a_spread_plan_is_a_sample() -> None:
    """Requests of one family that are answered ever longer: each tenth has all kinds."""
    job = Job([[7, 7, 7, i] for i in range(200)], expected=list(range(1, 201)), max_new=300)
    plan = spread(make_plan(job.table), job.table)
    expected = job.table.expected_new_tokens[plan.sequence_request]
    means = expected.reshape(10, 20).mean(axis=1)
    assert np.abs(means - expected.mean()).max() < 0.1 * expected.mean()
