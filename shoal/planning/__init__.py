"""The plan of a job, for one device or several: what a run follows, and what `shoal plan` shows.

Pure arithmetic, without torch: from the same table, options and machine comes the same plan.
"""

from shoal.planning.adapter_use import AdapterUse, adapter_use
from shoal.planning.recipe import Division, RunPlan, divide_job, plan_run
from shoal.planning.shares import Share, make_shares

__all__ = [
    "AdapterUse",
    "Division",
    "RunPlan",
    "Share",
    "adapter_use",
    "divide_job",
    "make_shares",
    "plan_run",
]
