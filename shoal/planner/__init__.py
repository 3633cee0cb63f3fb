"""Planning: the prefix forest, what to share, and in which order to run.

Pure arithmetic on token ids and length estimates; `make_plan` is the entry.
"""

from shoal.planner.forest import Forest, build_forest
from shoal.planner.peak import expected_peak_kv
from shoal.planner.plan import Plan
from shoal.planner.planner import make_plan
from shoal.planner.sharing import FoldCost, Savings, savings

__all__ = [
    "FoldCost",
    "Forest",
    "Plan",
    "Savings",
    "build_forest",
    "expected_peak_kv",
    "make_plan",
    "savings",
]
