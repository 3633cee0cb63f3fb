"""The scheduler against a clock: what a planned run takes, and which order to plan it in."""

from shoal.simulate.bound import LowerBound, lower_bound
from shoal.simulate.clock import BatchTime, batch_time
from shoal.simulate.orders import OrderChoice, choose_order, in_order
from shoal.simulate.seconds import PartSeconds, SplitPoints, cuts, part_seconds
from shoal.simulate.simulated_run import SimulatedRun, simulate

__all__ = [
    "BatchTime",
    "LowerBound",
    "OrderChoice",
    "PartSeconds",
    "SimulatedRun",
    "SplitPoints",
    "batch_time",
    "choose_order",
    "cuts",
    "in_order",
    "lower_bound",
    "part_seconds",
    "simulate",
]
