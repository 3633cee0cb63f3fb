"""The plan of a job, for one device or several: what a run follows, and what `shoal plan` shows.

Pure arithmetic, without torch: from the same table, options and machine comes the same plan.
"""

from shoal.planning.deal import Dealt, deal, plan_of
from shoal.planning.part import part_of
from shoal.planning.recipe import Division, RunPlan, divide_job, plan_run

__all__ = [
    "Dealt",
    "Division",
    "RunPlan",
    "deal",
    "divide_job",
    "part_of",
    "plan_of",
    "plan_run",
]
