from __future__ import annotations

import numpy as np
import pytest

from shoal.config import Order, OrderOption
from shoal.costs import Costs
from shoal.planner import Plan, make_plan, reordered
from shoal.simulate import choose_order, in_order, lower_bound, simulate
from shoal.simulate import orders as orders_module
from shoal.simulate.miniature import Setup, miniature
from shoal.types import RequestTable
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job
from tests.planner.test_blend import two_kinds

COSTS = Costs(
    flops_per_token=2e8,
    head_flops=5e7,
    attention_flops=4e4,
    weight_bytes=2e8,
    kv_bytes=1e4,
    flops_per_second=1e12,
    bytes_per_second=2e10,
    iteration_seconds=1e-3,
)
MACHINE = machine(COSTS, budget=512, blocks=256)


def planned(job: Job) -> tuple[RequestTable, Plan]:
    table = job.table
    return table, make_plan(table, machine=MACHINE)


def test_a_small_job_is_simulated_itself() -> None:
    table, plan = planned(two_kinds(requests=20))
    setup = Setup(table, plan, MACHINE)
    assert miniature(setup, iterations=10, most_iterations=20) is setup
    choice = choose_order(table, plan, MACHINE)
    for order in Order:
        run = simulate(table, reordered(plan, table, order, MACHINE), MACHINE)
        assert choice.seconds[order] == pytest.approx(run.seconds)


@pytest.mark.long
@pytest.mark.parametrize("groups", [2, 12])
def test_a_miniature_predicts_a_large_job(groups: int) -> None:
    table, plan = planned(two_kinds(requests=1000 // groups, groups=groups))
    setup = Setup(table, plan, MACHINE)
    bound = lower_bound(table, plan, MACHINE)
    small = miniature(setup, bound.iterations, 100)
    assert small.plan.num_sequences < 0.6 * plan.num_sequences
    choice = choose_order(table, plan, MACHINE)
    run = simulate(table, plan, MACHINE)
    assert choice.seconds[Order.ratio] == pytest.approx(run.seconds, rel=0.1)
    assert choose_order(table, plan, MACHINE) == choice


def test_a_miniature_is_a_plan_of_whole_requests_with_the_same_mix() -> None:
    table, plan = planned(two_kinds(requests=250, groups=6, longer=5))
    setup = Setup(table, plan, MACHINE)
    small = miniature(setup, 2000, 200)
    lengths = small.table.lengths[small.plan.sequence_request]
    assert small.plan.prompt_tokens == lengths.sum()
    assert (lengths >= small.plan.shared_length).all()
    assert sorted(small.plan.sequence_request.tolist()) == list(range(len(small.table)))
    long = small.table.expected_new_tokens > small.table.expected_new_tokens.mean()
    assert np.mean(long) == pytest.approx(0.5, abs=0.1)
    whole = small.plan.saved_prompt_tokens / small.plan.prompt_tokens
    assert whole == pytest.approx(plan.saved_prompt_tokens / plan.prompt_tokens, abs=0.1)
    assert (small.plan.segment_users >= 2).all()
    assert proportion(small) == pytest.approx(proportion(setup), rel=0.2)


def proportion(setup: Setup) -> float:
    """Time of all arithmetic over that of reading KV."""
    costs = setup.machine.costs
    bound = lower_bound(setup.table, setup.plan, setup.machine)
    weights = bound.iterations * costs.weight_bytes / costs.bytes_per_second
    return bound.compute / (bound.memory - weights)


def test_the_order_asked_for_is_taken() -> None:
    table, plan = planned(two_kinds(requests=20))
    for option in (OrderOption.blend, OrderOption.ratio, OrderOption.input):
        ordered, predicted = in_order(table, plan, option, MACHINE)
        assert ordered.order.value == option.value
        assert predicted == {}
    same, _ = in_order(table, plan, OrderOption.ratio, MACHINE)
    assert same is plan


def test_auto_simulates_what_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    table, plan = planned(two_kinds(requests=20))
    same, predicted = in_order(table, plan, OrderOption.auto, MACHINE)
    assert same is plan
    assert predicted == {}
    monkeypatch.setattr(orders_module, "WORTH_SECONDS", 0.0)
    ordered, predicted = in_order(table, plan, OrderOption.auto, MACHINE)
    assert set(predicted) == set(Order)
    assert ordered.order is choose_order(table, plan, MACHINE).order


@pytest.mark.parametrize(("gain", "taken"), [(0.005, Order.ratio), (0.02, Order.blend)])
def test_ratio_is_kept_unless_another_order_wins(
    monkeypatch: pytest.MonkeyPatch, gain: float, taken: Order
) -> None:
    table, plan = planned(two_kinds(requests=10))

    def seconds(setup: Setup, order: Order) -> float:
        return {Order.ratio: 1.0, Order.blend: 1.0 / (1 + gain), Order.input: 1.1}[order]

    monkeypatch.setattr(orders_module, "_seconds", seconds)
    assert choose_order(table, plan, MACHINE).order is taken
