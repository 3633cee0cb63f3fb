from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.costs import Costs, Machine
from shoal.planner import Plan, make_plan, reordered
from shoal.planner.blend import alternating
from shoal.planner.rearrange_pieces import Line, piece_starts
from shoal.planner.sharing import choose_segments
from shoal.planner.tree import Tree, depth_first
from shoal.planner.work_counts import WorkCounts, request_work, segment_work
from shoal.types import RequestTable
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_forest import build

COSTS = Costs(
    flops_per_token=100.0,
    head_flops=30.0,
    attention_flops=1.0,
    weight_bytes=1000.0,
    kv_bytes=4.0,
    flops_per_second=1e4,
    bytes_per_second=1e3,
)
machines = st.sampled_from([None, machine(COSTS), machine(COSTS, blocks=2**9)])


def two_kinds(requests: int, groups: int = 1, longer: int = 1) -> Job:
    """Groups that write much and groups that read much, a long prefix each."""
    words, expected = [], []
    for group in range(groups):
        for kind, (own, output) in enumerate([(4, 60), (60, 2)]):
            prefix = [2 * group + kind] * 100
            for i in range(requests):
                words.append([*prefix, 1000 + i, *[5] * own * longer])
                expected.append(output * longer)
    return Job(words, expected=expected, max_new=64 * longer)


def blended(job: Job, capacity_tokens: int = 10**8) -> Plan:
    on = Machine(COSTS, 4096, capacity_tokens)
    return make_plan(job.table, order=Order.blend, machine=on)


def prompts(job: Job, plan: Plan) -> list[tuple[int, ...]]:
    return [tuple(job.prompts[r]) for r in plan.sequence_request.tolist()]


def check_plan(table: RequestTable, plan: Plan) -> None:
    """Every sequence once, and its segments spell its prompt; users are neighbours."""
    pairs = list(zip(plan.sequence_request.tolist(), plan.sequence_choice.tolist(), strict=True))
    assert sorted(pairs) == [(r, c) for r, n in enumerate(table.choices) for c in range(n)]
    users: dict[int, list[int]] = {}
    for index, leaf in enumerate(plan.sequence_segment.tolist()):
        prompt = table.prompt(int(plan.sequence_request[index]))
        for segment in plan.path(leaf):
            first, last = int(plan.segment_start[segment]), int(plan.segment_end[segment])
            source = table.prompt(int(plan.segment_request[segment]))
            assert np.array_equal(prompt[first:last], source[first:last])
            users.setdefault(segment, []).append(index)
    for segment in range(plan.num_segments):
        first, last = int(plan.segment_first[segment]), int(plan.segment_last[segment])
        assert users[segment] == list(range(first, last))
        assert last - first >= 2
    preorder = list(zip(plan.segment_first.tolist(), plan.segment_start.tolist(), strict=True))
    assert preorder == sorted(preorder)
    saved = int((plan.segment_length * (plan.segment_users - 1)).sum())
    assert plan.saved_prompt_tokens == saved


# The two scans.

parts = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2)), min_size=1, max_size=30
)


@given(parts)
def test_what_stands_before_any_place_has_the_density_of_all(
    drawn: list[tuple[int, int, int]],
) -> None:
    compute, memory, above = np.array(drawn).T
    zero = np.zeros(len(drawn), dtype=np.int64)
    work = WorkCounts(np.stack([compute, zero, zero, zero, memory]))
    key = alternating(work, work.summed(above, 3), above, np.arange(len(drawn)), None)
    for parent in range(3):
        mine = np.flatnonzero(above == parent)
        c, m = (
            compute[mine] / max(compute[mine].sum(), 1),
            memory[mine] / max(memory[mine].sum(), 1),
        )
        gain = (c - m)[np.argsort(key[mine], kind="stable")]
        if compute[mine].sum() and memory[mine].sum():
            assert np.abs(np.cumsum(gain)).max(initial=0) <= np.abs(gain).max(initial=0) + 1e-9


def test_each_scan_goes_from_its_end_towards_the_middle() -> None:
    compute = np.array([9, 4, 2, 2, 1, 2])
    memory = np.array([1, 1, 2, 3, 5, 8])
    zero = np.zeros(6, dtype=np.int64)
    work = WorkCounts(np.stack([compute, zero, zero, zero, memory]))
    key = alternating(work, work.summed(zero, 1), zero, np.arange(6), None)
    assert key == pytest.approx([0.2, 0.475, 0.55, 0.525, 0.1, 0.35])
    assert np.argsort(key).tolist() == [4, 0, 5, 1, 3, 2]


# Work.


@settings(deadline=None)
@given(jobs(max_requests=8, max_runs=7))
def test_work_is_that_of_a_token_by_token_count(job: Job) -> None:
    forest = build(job)
    segments = choose_segments(forest, Sharing.forest)
    tree = Tree.of_segments(job.table, forest, segments)
    requests, shared = request_work(tree), segment_work(tree)
    for r, prompt in enumerate(job.prompts):
        start, output, n = int(tree.shared[r]), job.expected[r], job.choices[r]
        rows = range(start, len(prompt) + output - 1)
        assert requests.counts[0, r] == n * len(rows)
        assert requests.counts[1, r] == n * (output - (start == len(prompt)))
        assert requests.counts[2, r] == n * sum(row + 1 for row in rows)
        assert requests.reads[0, r] == n * sum(
            row + 1 - start for row in rows if row >= len(prompt)
        )
    for s in range(len(tree.parent)):
        start, end = int(tree.start[s]), int(tree.end[s])
        assert shared.counts[2, s] == sum(row + 1 for row in range(start, end))


# Plans.


@pytest.mark.long
@settings(deadline=None)
@given(jobs(), st.sampled_from(Sharing), machines, st.data())
def test_blend_is_a_plan_whatever_the_input_order(
    job: Job, sharing: Sharing, on: Machine | None, data: st.DataObject
) -> None:
    options = {"sharing": sharing, "machine": on}
    plan = make_plan(job.table, order=Order.blend, **options)
    check_plan(job.table, plan)
    shuffled = job.permuted(data.draw(st.permutations(range(len(job.words)))))
    again = make_plan(shuffled.table, order=Order.blend, **options)
    assert prompts(shuffled, again) == prompts(job, plan)
    ratio = make_plan(job.table, order=Order.ratio, **options)
    assert plan.saved_prompt_tokens >= 0.99 * ratio.saved_prompt_tokens


@pytest.mark.parametrize("capacity", [10**8, 4000, 100_000])
@pytest.mark.parametrize("front", [[], [7] * 300])
def test_groups_too_large_for_memory_take_turns(capacity: int, front: list[int]) -> None:
    job = two_kinds(requests=400)
    job = Job([front + word for word in job.words], expected=job.expected, max_new=64)
    plan, whole = blended(job, capacity), make_plan(job.table, machine=machine(COSTS))
    check_plan(job.table, plan)
    assert 0.99 * whole.saved_prompt_tokens <= plan.saved_prompt_tokens
    assert plan.saved_prompt_tokens < whole.saved_prompt_tokens
    writes = np.array(job.expected)[plan.sequence_request] == 60
    turns = np.count_nonzero(np.diff(writes)) + 1
    assert turns >= 6
    # What all begin with is computed once.
    assert not front or plan.segment_users[0] == len(job.words)


def test_a_balanced_job_is_not_cut() -> None:
    job = Job([[*[1] * 100, 1000 + i, 5] for i in range(400)], max_new=8)
    assert blended(job, 2000).num_segments == 1


def test_large_groups_stay_whole_where_cutting_costs_too_much() -> None:
    job = two_kinds(requests=20)
    whole = make_plan(job.table, machine=machine(COSTS))
    assert blended(job, 2000).saved_prompt_tokens == whole.saved_prompt_tokens


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_runs=7), st.data())
def test_pieces_in_any_order_are_a_plan(job: Job, data: st.DataObject) -> None:
    forest = build(job)
    tree = Tree.of_segments(job.table, forest, choose_segments(forest, Sharing.forest))
    line = Line.of(tree, depth_first(tree, tree.tie))
    inner = data.draw(st.sets(st.integers(1, max(1, len(job.words) - 1))))
    starts = np.array(sorted({0} | {i for i in inner if i < len(job.words)}))
    order = np.array(data.draw(st.permutations(range(len(starts)))))
    arrangement = line.arranged(starts, order)
    pieces = np.split(line.request, starts[1:])
    wanted = np.concatenate([pieces[i] for i in order])
    assert np.argsort(arrangement.request_first).tolist() == wanted.tolist()
    for copy, source in enumerate(arrangement.source.tolist()):
        assert arrangement.last[copy] - arrangement.first[copy] >= 2
        parent = int(arrangement.parent[copy])
        if parent >= 0:
            assert arrangement.source[parent] == tree.parent[source]
            assert arrangement.first[parent] <= arrangement.first[copy]
            assert arrangement.last[copy] <= arrangement.last[parent]
        else:
            assert tree.parent[source] == -1
    for request, first in enumerate(arrangement.request_first.tolist()):
        # The deepest of its segments of which a neighbour uses the same copy.
        segment, leaf = int(tree.leaf[request]), int(arrangement.leaf[request])
        covering = [
            c
            for c in range(len(arrangement.source))
            if arrangement.first[c] <= first < arrangement.last[c]
            and is_on_path(tree, segment, arrangement.source[c])
        ]
        assert leaf == max(covering, key=lambda c: tree.end[arrangement.source[c]], default=-1)


def is_on_path(tree: Tree, segment: int, ancestor: int) -> bool:
    while segment >= 0 and segment != ancestor:
        segment = int(tree.parent[segment])
    return segment >= 0


@pytest.mark.long
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 3, 5, 9]), st.integers(1, 9)), min_size=1),
    st.integers(1, 20),
    st.integers(0, 60),
)
def test_cuts_cost_no_more_than_allowed(
    drawn: list[tuple[int, int]], size: int, allowance: int
) -> None:
    cut, held = np.array(drawn).T
    cut[0] = 0
    starts = piece_starts(cut, held, size, allowance, np.ones(len(cut), dtype=np.bool_))
    free = np.flatnonzero(cut == 0)
    assert cut[starts].sum() <= allowance
    assert set(free.tolist()) <= set(starts.tolist())
    none = piece_starts(cut, held, size, allowance, np.zeros(len(cut), dtype=np.bool_))
    assert none.tolist() == free.tolist()


# The same from a plan.


@pytest.mark.long
@settings(deadline=None)
@given(jobs(), st.sampled_from(Sharing), st.sampled_from(Order), machines)
def test_reordering_a_plan_is_planning_in_that_order(
    job: Job, sharing: Sharing, order: Order, on: Machine | None
) -> None:
    options = {"sharing": sharing, "machine": on}
    ratio = make_plan(job.table, order=Order.ratio, **options)
    again = reordered(ratio, job.table, order, on)
    planned = make_plan(job.table, order=order, **options)
    check_plan(job.table, again)
    assert again.order is order
    assert sorted(users_of(job, again)) == sorted(users_of(job, planned))
    if order is Order.ratio:
        assert again.sequence_request.tolist() == ratio.sequence_request.tolist()
    if order is Order.input:
        firsts = again.sequence_request.tolist()
        assert firsts == planned.sequence_request.tolist()


def users_of(job: Job, plan: Plan) -> list[tuple[tuple[int, ...], int]]:
    """Each segment's whole path as tokens, and its users."""
    ends, requests = plan.segment_end.tolist(), plan.segment_request.tolist()
    paths = [tuple(job.prompts[r][:end]) for r, end in zip(requests, ends, strict=True)]
    return list(zip(paths, plan.segment_users.tolist(), strict=True))


def test_an_empty_job_has_a_blend() -> None:
    table = Job([[1]]).table
    empty = RequestTable(
        tokens=table.tokens[:0],
        offsets=table.offsets[:1],
        params=table.params,
        params_index=table.params_index[:0],
        max_new_tokens=table.max_new_tokens[:0],
        expected_new_tokens=table.expected_new_tokens[:0],
        seeds=table.seeds[:0],
        has_seed=table.has_seed[:0],
        line=table.line[:0],
    )
    assert make_plan(empty, order=Order.blend).num_sequences == 0
