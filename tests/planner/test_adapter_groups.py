"""Adapters in plans: no prefix is shared between them, and requests of one are neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.planner import make_plan, reordered
from shoal.types import BASE_MODEL, Adapter
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job, jobs

ADAPTERS = tuple(Adapter(str(number), "", "", 1) for number in range(3))


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(jobs(), st.data(), st.sampled_from(list(Order)), st.sampled_from(list(Sharing)))
def test_neighbours_that_share_with_their_own(
    job: Job, data: st.DataObject, order: Order, sharing: Sharing
) -> None:
    count = len(job.prompts)
    number = st.integers(BASE_MODEL, len(ADAPTERS) - 1)
    of = np.array(data.draw(st.lists(number, min_size=count, max_size=count)), dtype=np.int32)
    table = replace(job.table, adapters=ADAPTERS, adapter=of)
    plan = make_plan(table, sharing=sharing, order=order, machine=machine())
    again = make_plan(table, sharing=sharing, machine=machine())
    for each in (plan, reordered(again, table, order, machine())):
        _check(each, table, of)
    alone = [
        make_plan(
            job.table.select(np.flatnonzero(of == number)), sharing=sharing, machine=machine()
        )
        for number in np.unique(of)
    ]
    if order is not Order.blend:  # which may cut families into pieces
        computed = sum(part.computed_prompt_tokens for part in alone)
        assert plan.computed_prompt_tokens == computed


def _check(plan, table, of) -> None:
    assert sorted(set(plan.sequence_request.tolist())) == list(range(len(table)))
    of_sequence = of[plan.sequence_request]
    runs = of_sequence[np.flatnonzero(np.diff(of_sequence, prepend=-2))]
    assert len(set(runs.tolist())) == len(runs)
    for first, last, request in zip(
        plan.segment_first, plan.segment_last, plan.segment_request, strict=True
    ):
        assert set(of_sequence[first:last].tolist()) == {int(of[request])}
    for sequence, segment in enumerate(plan.sequence_segment.tolist()):
        prompt = table.prompt(int(plan.sequence_request[sequence]))
        for each in plan.path(segment):
            assert plan.segment_first[each] <= sequence < plan.segment_last[each]
            part = slice(plan.segment_start[each], plan.segment_end[each])
            other = table.prompt(int(plan.segment_request[each]))
            assert prompt[part].tolist() == other[part].tolist()


def test_without_adapters_nothing_changes() -> None:
    words = [[1, 2], [1, 3], [4], [1, 2, 5]]
    table = Job(words).table
    none = replace(table, adapters=ADAPTERS, adapter=np.full(len(words), 2, dtype=np.int32))
    assert make_plan(none, machine=machine()) == make_plan(table, machine=machine())
