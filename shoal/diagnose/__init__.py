"""Diagnoses: what in a job's prompts keeps it from being cheaper, and what putting it right brings.

Each module knows one mistake; `diagnose` decides which are worth a person's time. Costs are
counted, not guessed: the prefix forest is built again for the prompts as they could have been.
Work is bounded whatever the job's size (`sample`).
"""

from shoal.diagnose.diagnose import Diagnoses, diagnose
from shoal.diagnose.finding import Example, Finding, FindingKind
from shoal.diagnose.limits import LimitFinding

__all__ = ["Diagnoses", "Example", "Finding", "FindingKind", "LimitFinding", "diagnose"]
