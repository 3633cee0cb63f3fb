"""Which order to run a job in: the one that is fastest against the clock."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.config import Order, OrderOption
from shoal.costs import Machine
from shoal.planner import Plan, reordered
from shoal.simulate.bound import lower_bound
from shoal.simulate.miniature import Setup, miniature
from shoal.simulate.simulated_run import simulate
from shoal.types import RequestTable

ITERATIONS = 192
"""Iterations to simulate for each order, about; they take about a millisecond each."""
TIE = 0.01
"""An order must be faster than `ratio` by this share to be chosen, ..."""
MINIATURE_TIE = 0.04
"""... or by this in a miniature: so far off are its differences between orders at times."""
WORTH_SECONDS = 30.0
"""A job of less work runs in the order `ratio`: simulating it takes longer than can be gained."""


@dataclass(frozen=True)
class OrderChoice:
    """An order, and the seconds that a run in each order is predicted to take."""

    order: Order
    seconds: dict[Order, float]


def in_order(
    table: RequestTable, plan: Plan, option: OrderOption, machine: Machine
) -> tuple[Plan, dict[Order, float]]:
    """The plan in the order asked for; `auto` takes what `choose_order` says.

    Args:
        plan: the job in the order `ratio`.

    Returns:
        The plan, and the seconds predicted for each order: none unless orders were compared.
    """
    predicted: dict[Order, float] = {}
    if option is OrderOption.auto:
        if lower_bound(table, plan, machine).seconds < WORTH_SECONDS:
            return plan, predicted
        choice = choose_order(table, plan, machine)
        order, predicted = choice.order, choice.seconds
    else:
        order = Order(option)
    if order is plan.order:
        return plan, predicted
    return reordered(plan, table, order, machine), predicted


def choose_order(table: RequestTable, plan: Plan, machine: Machine) -> OrderChoice:
    """Simulate the job in every order, or a miniature of it if it is large. Deterministic.

    A miniature's time is multiplied by how much more the job must take at least.

    Args:
        plan: the job in the order `ratio`; another order may be made of it by `reordered`.
    """
    if plan.num_sequences == 0:
        return OrderChoice(Order.ratio, {})
    whole = Setup(table, plan, machine)
    bound = lower_bound(table, plan, machine)
    small = miniature(whole, bound.iterations, ITERATIONS)
    scale = 1.0
    if small is not whole:
        scale = bound.seconds / lower_bound(small.table, small.plan, small.machine).seconds
    seconds = {order: scale * _seconds(small, order) for order in Order}
    best = min(seconds, key=seconds.__getitem__)
    tie = TIE if small is whole else MINIATURE_TIE
    near = seconds[Order.ratio] <= (1 + tie) * seconds[best]
    return OrderChoice(Order.ratio if near else best, seconds)


def _seconds(setup: Setup, order: Order) -> float:
    plan = setup.plan
    if order is not plan.order:
        plan = reordered(plan, setup.table, order, setup.machine)
    return simulate(setup.table, plan, setup.machine).seconds
