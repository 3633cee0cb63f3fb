"""Planning: the prefix forest, what to share, and in which order to run.

Pure arithmetic on token ids and length estimates; `make_plan` is the entry.
"""

from shoal.planner.division import divided
from shoal.planner.folding import FoldCost
from shoal.planner.forest import Forest, build_forest
from shoal.planner.lengths import LengthModel, fixed_lengths
from shoal.planner.peak import expected_peak_kv
from shoal.planner.pilot import Pilot, pilot_first
from shoal.planner.plan import Plan
from shoal.planner.planner import forest_of, make_plan, reordered, spread
from shoal.planner.sharing import Savings, savings

__all__ = [
    "FoldCost",
    "Forest",
    "LengthModel",
    "Pilot",
    "Plan",
    "Savings",
    "build_forest",
    "divided",
    "expected_peak_kv",
    "fixed_lengths",
    "forest_of",
    "make_plan",
    "pilot_first",
    "reordered",
    "savings",
    "spread",
]
