"""Which sequences run first as a sample, what that costs, and what is made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shoal.config import Order, Sharing
from shoal.planner import LengthModel, Pilot, Plan, make_plan, pilot_first
from shoal.types import RequestParams, RequestTable
from tests.planner.test_lengths import LIMIT, table_of


def job(
    groups: dict[int, int], params: list[RequestParams] | None = None, own: int = 100
) -> RequestTable:
    """`groups[size]` templates of `size` requests each, shuffled, half of each parameters."""
    sizes = [size for size, count in groups.items() for _ in range(count)]
    templates = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    params = params or [RequestParams(max_tokens=LIMIT)]
    return table_of(templates, params, np.arange(len(templates)) % len(params), own)


def template_of(table: RequestTable, plan: Plan) -> list[int]:
    return table.tokens[table.offsets[plan.sequence_request]].tolist()


def piloted(table: RequestTable, order: Order = Order.ratio) -> tuple[Plan, Plan, int]:
    plan = make_plan(table, order=order)
    return plan, *pilot_first(plan, table)


def test_a_sample_of_every_template_runs_first() -> None:
    table = job({1000: 3, 200: 2})
    plan, moved, count = piloted(table)
    sample = template_of(table, moved)[:count]
    assert sorted(np.unique(sample, return_counts=True)[1].tolist()) == [4, 4, 10, 10, 10]
    assert sorted(moved.sequence_request) == sorted(plan.sequence_request)
    again = moved.computed_prompt_tokens - plan.computed_prompt_tokens
    assert again == 5 * 200
    assert again <= 0.01 * plan.computed_prompt_tokens + 1000


def test_small_groups_are_pooled_and_taken_whole() -> None:
    table = job({10: 150, 1000: 1})
    plan, moved, count = piloted(table)
    names, sizes = np.unique(template_of(table, moved)[:count], return_counts=True)
    assert sorted(sizes.tolist()) == [10, 10, 10], "1 % of the pool and none of the large template"
    assert moved.computed_prompt_tokens - plan.computed_prompt_tokens == 200 or len(names) == 3


@pytest.mark.parametrize("sharing", [Sharing.forest, Sharing.single, Sharing.none])
def test_recomputation_is_bounded(sharing: Sharing) -> None:
    for groups in ({120: 10}, {120: 20, 3: 300}, {5000: 2}, {100: 60}, {1: 1500, 500: 2}):
        table = job(groups)
        plan = make_plan(table, sharing=sharing)
        moved, count = pilot_first(plan, table)
        again = moved.computed_prompt_tokens - plan.computed_prompt_tokens
        assert 0 <= again <= 0.01 * plan.computed_prompt_tokens
        assert count <= 0.03 * plan.num_sequences


def test_the_least_of_many_classes_adds_up_to_a_small_share() -> None:
    """Four of each hundred would be 4 %; recomputing 200 tokens for each is cheap here."""
    table = job({100: 30}, own=1000)
    plan, _, count = piloted(table)
    assert plan.num_sequences == 3000
    assert 80 < count <= 90


def test_no_pilot_where_none_is_worth_it() -> None:
    tight = [RequestParams(max_tokens=63)]
    fixed = [RequestParams(max_tokens=LIMIT, ignore_eos=True)]
    for table, order in (
        (job({300: 3}), Order.ratio),
        (job({1000: 3}, tight), Order.ratio),
        (job({1000: 3}, fixed), Order.ratio),
        (job({3000: 1}), Order.ratio),
        (job({1000: 3}), Order.input),
    ):
        plan, moved, count = piloted(table, order)
        assert (count, moved) == (0, plan)


def test_all_choices_of_a_request_stay_together() -> None:
    for sharing in (Sharing.forest, Sharing.none):
        table = job({300: 4}, [RequestParams(max_tokens=LIMIT, n=3)])
        plan = make_plan(table, sharing=sharing)
        moved, count = pilot_first(plan, table)
        assert bool(count) == (sharing is Sharing.forest), "without sharing all are alike"
        assert count % 3 == 0
        assert (moved.sequence_choice == np.arange(moved.num_sequences) % 3).all()
        assert (moved.sequence_request[::3] == moved.sequence_request[2::3]).all()


def test_what_was_learnt_orders_the_rest() -> None:
    """Equal limits and prompts: only the sample tells which template answers at length."""
    table = job({500: 6})
    plan, moved, count = piloted(table)
    lengths = LengthModel(plan, table)
    pilot = Pilot(table, lengths, count)
    template = np.array(template_of(table, moved))
    length_of = dict(zip(np.unique(template).tolist(), (50, 10, 300, 20, 200, 100), strict=True))
    first = np.arange(count)
    request = moved.sequence_request[first].astype(np.int64)
    lengths.observe(request, np.array([length_of[t] for t in template[first].tolist()]))
    enough = int(np.ceil(0.9 * count))
    assert not pilot.ended(first[: enough - 1].astype(np.int32))
    assert not pilot.ended(np.array([count, count + 1], dtype=np.int32)), "these are no pilots"
    assert pilot.ended(first[enough - 1 : enough].astype(np.int32))
    assert not pilot.ended(first[enough:].astype(np.int32)), "once"

    begun = count + 3
    done = pilot.replan(moved, begun)
    after = np.array(template_of(table, done))
    group = 500 - count // 6
    assert np.array_equal(
        done.sequence_request[: count + group], moved.sequence_request[: count + group]
    )
    rest = [length_of[t] for t in after[count + group :: group].tolist()]
    assert rest == sorted(rest, reverse=True)
    assert len(rest) == 5
    assert done.computed_prompt_tokens == moved.computed_prompt_tokens
    assert pilot.replan(replace(moved, order=Order.input), begun).sequence_request.tolist() == (
        moved.sequence_request.tolist()
    )
    assert pilot.replan(moved, moved.num_sequences) == moved
