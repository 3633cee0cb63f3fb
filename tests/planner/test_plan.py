from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.costs import Machine
from shoal.errors import InternalError, JobError
from shoal.planner import Plan, make_plan
from shoal.types import RequestParams
from tests.helpers.machines import FREE, machine
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_forest import build

modes = st.sampled_from(Sharing)
orders = st.sampled_from(Order)
DEAR = dataclasses.replace(FREE, segment_seconds=3.0, use_seconds=0.5)
machines = st.sampled_from([None, machine(), machine(DEAR)])


def prompt_by_plan(job: Job, plan: Plan, sequence: int) -> list[int]:
    """A sequence's prompt, put together as a run would."""
    tokens: list[int] = []
    for s in plan.path(int(plan.sequence_segment[sequence])):
        start, length = int(plan.segment_start[s]), int(plan.segment_length[s])
        assert start == len(tokens)
        tokens += job.prompts[plan.segment_request[s]][start : start + length]
    assert len(tokens) == plan.shared_length[sequence]
    return tokens + job.prompts[plan.sequence_request[sequence]][len(tokens) :]


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_requests=20), modes, orders, machines)
def test_plan_describes_the_job(
    job: Job, sharing: Sharing, order: Order, on: Machine | None
) -> None:
    plan = make_plan(job.table, sharing=sharing, order=order, machine=on)
    choices = zip(plan.sequence_request.tolist(), plan.sequence_choice.tolist(), strict=True)
    assert sorted(choices) == [(r, c) for r, n in enumerate(job.choices) for c in range(n)]
    for q in range(plan.num_sequences):
        assert prompt_by_plan(job, plan, q) == job.prompts[plan.sequence_request[q]]
    for s in range(plan.num_segments):
        users = [q for q in range(plan.num_sequences) if s in plan.path(plan.sequence_segment[q])]
        assert users == list(range(plan.segment_first[s], plan.segment_last[s]))
        assert len(users) >= 2
        assert plan.segment_parent[s] < s
    own = [len(job.prompts[r]) for r in plan.sequence_request] - plan.shared_length
    assert plan.computed_prompt_tokens == own.sum() + plan.segment_length.sum()
    assert plan.prompt_tokens == np.dot(job.choices, [len(p) for p in job.prompts])
    assert plan.saved_prompt_tokens == plan.prompt_tokens - plan.computed_prompt_tokens


@settings(deadline=None)
@given(jobs(max_requests=20), modes, orders, machines)
def test_groups_partition_the_sequences(
    job: Job, sharing: Sharing, order: Order, on: Machine | None
) -> None:
    plan = make_plan(job.table, sharing=sharing, order=order, machine=on)
    top = [(plan.path(s) or [None])[0] for s in plan.sequence_segment.tolist()]
    bounds = [q for q, s in enumerate(top) if q == 0 or s is None or s != top[q - 1]]
    assert plan.groups.tolist() == [*bounds, plan.num_sequences]


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_requests=20), modes, machines, st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_input_order(
    job: Job, sharing: Sharing, on: Machine | None, random: object
) -> None:
    order = list(range(len(job.prompts)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives it no type
    other = job.permuted(order)
    ours = make_plan(job.table, sharing=sharing, machine=on)
    theirs = make_plan(other.table, sharing=sharing, machine=on)
    for name in ("parent", "start", "length", "first", "last"):
        name = f"segment_{name}"
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert ours.sequence_segment.tolist() == theirs.sequence_segment.tolist()
    assert [job.prompts[r] for r in ours.sequence_request] == [
        other.prompts[r] for r in theirs.sequence_request
    ]


@pytest.mark.long
@settings(deadline=None)
@given(jobs(), modes, orders)
def test_plan_survives_a_file(job: Job, sharing: Sharing, order: Order) -> None:
    plan = make_plan(job.table, sharing=sharing, order=order)
    assert plan == make_plan(job.table, sharing=sharing, order=order)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "job.plan"
        plan.save(file)
        loaded = Plan.load(file)
    assert loaded == plan
    assert isinstance(loaded.sharing, Sharing)
    assert loaded.segment_first.dtype == loaded.sequence_segment.dtype == np.int32


def test_plans_differ_by_content() -> None:
    job = Job([[1] * 50, [1] * 50 + [2], [3]])
    plan = make_plan(job.table)
    assert plan != make_plan(job.table, order=Order.input)
    assert plan != make_plan(Job([[1] * 50, [1] * 50 + [2], [3, 3]]).table)
    assert plan != "plan"


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_loading_something_else_says_so(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "no.plan"
    file.write_bytes(content)
    with pytest.raises(JobError, match=r"no\.plan is not a plan"):
        Plan.load(file)


def needed_blocks(job: Job, plan: Plan, sequence: int, block: int) -> int:
    path = plan.path(int(plan.sequence_segment[sequence]))
    own = len(job.prompts[plan.sequence_request[sequence]]) - int(plan.shared_length[sequence])
    shared = sum(-(-int(plan.segment_length[s]) // block) for s in path)
    return shared + -(-(own + job.max_new - 1) // block)


@pytest.mark.long
@settings(deadline=None)
@given(jobs(), modes, st.integers(1, 40), st.integers(0, 3))
def test_every_sequence_fits_the_pool(job: Job, sharing: Sharing, block: int, spare: int) -> None:
    alone = max(-(-(len(p) + job.max_new - 1) // block) for p in job.prompts)
    plan = make_plan(
        job.table,
        sharing=sharing,
        machine=machine(blocks=alone + spare, block_size=block),
    )
    needs = [needed_blocks(job, plan, q, block) for q in range(plan.num_sequences)]
    assert max(needs) <= alone + spare
    assert (plan.segment_users >= 2).all()
    free = make_plan(job.table, sharing=sharing)
    if all(needed_blocks(job, free, q, block) <= alone + spare for q in range(len(needs))):
        assert plan == free, "nobody is made exclusive without need"


def test_a_request_that_fits_only_alone_stops_sharing() -> None:
    # With blocks of 16 the segment takes 2. Behind it the last request needs 2 more, 4 in all;
    # by itself its 17 + 24 + 7 tokens take 3. The others need 3 behind the segment.
    job = Job([[1] * 17 + [2], [1] * 17 + [3], [1] * 17 + [4] * 24], max_new=8)
    roomy = make_plan(job.table, machine=machine(blocks=4, block_size=16))
    assert roomy.segment_users.tolist() == [3]
    tight = make_plan(job.table, machine=machine(blocks=3, block_size=16))
    assert tight.segment_users.tolist() == [2]
    assert tight.sequence_segment[tight.sequence_request == 2].tolist() == [-1]


def test_a_request_that_never_fits_is_a_bug_of_the_caller() -> None:
    job = Job([[1] * 40, [2]], max_new=8)
    with pytest.raises(InternalError, match="request 0 needs more KV blocks"):
        make_plan(job.table, machine=machine(blocks=2, block_size=16))


def test_scored_requests_share_like_any_other() -> None:
    job = Job([[1] * 60] * 3, choices=[1, 1, 2])
    scored = RequestParams(n=2, echo=True, logprobs=0)
    table = dataclasses.replace(job.table, params=[job.table.params[0], scored])
    assert make_plan(table) == make_plan(job.table)


def test_what_is_only_a_target_is_not_computed() -> None:
    """Four choices of one token behind one context, one of three, and a prompt of one token."""
    context = [1] * 60
    job = Job([*([*context, token] for token in range(2, 6)), [*context, 7, 8, 9], [3]])
    params = RequestParams(max_tokens=0, prompt_logprobs=0)
    table = dataclasses.replace(job.table, params=[params])
    plan = make_plan(table)
    assert plan.prompt_tokens == 4 * 61 + 63 + 1
    assert plan.computed_prompt_tokens == 60 + 2
    unscored = dataclasses.replace(table, params=[RequestParams(max_tokens=0)])
    assert make_plan(unscored).computed_prompt_tokens == 0


def test_a_forest_made_before_is_used() -> None:
    job = Job([[1] * 60] * 3)
    assert make_plan(job.table, forest=build(job)) == make_plan(job.table)


def test_no_requests() -> None:
    plan = make_plan(Job([]).table)
    assert (plan.num_sequences, plan.num_segments, plan.groups.tolist()) == (0, 0, [0])
