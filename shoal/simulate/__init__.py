"""The scheduler against a clock: what a planned run takes, and which order to plan it in."""

from shoal.simulate.bound import LowerBound, lower_bound
from shoal.simulate.choose import OrderChoice, choose_order, in_order
from shoal.simulate.clock import BatchTime, batch_time
from shoal.simulate.run import SimulatedRun, simulate

__all__ = [
    "BatchTime",
    "LowerBound",
    "OrderChoice",
    "SimulatedRun",
    "batch_time",
    "choose_order",
    "in_order",
    "lower_bound",
    "simulate",
]
