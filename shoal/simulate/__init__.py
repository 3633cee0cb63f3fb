"""The scheduler against a clock: what a planned run takes, and which order to plan it in."""

from shoal.simulate.bound import LowerBound, lower_bound
from shoal.simulate.clock import BatchTime, batch_time
from shoal.simulate.orders import OrderChoice, choose_order, in_order
from shoal.simulate.seconds import PartSeconds, part_seconds
from shoal.simulate.simulated_run import SimulatedRun, simulate
from shoal.simulate.stretches import SplitPoints, Stretches

__all__ = [
    "BatchTime",
    "LowerBound",
    "OrderChoice",
    "PartSeconds",
    "SimulatedRun",
    "SplitPoints",
    "Stretches",
    "batch_time",
    "choose_order",
    "in_order",
    "lower_bound",
    "part_seconds",
    "simulate",
]
