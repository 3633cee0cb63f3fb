"""The plan of a job, for one device or several: what a run follows, and what `shoal plan` shows.

Pure arithmetic, without torch: from the same table, options and machine comes the same plan.
"""

from shoal.planning.recipe import Division, RunPlan, divide_job, plan_run
from shoal.planning.shares import Share, make_shares

__all__ = [
    "Division",
    "RunPlan",
    "Share",
    "divide_job",
    "make_shares",
    "plan_run",
]
