"""Walks a plan: one token batch per iteration, bounded by KV memory and a token budget.

Never imports torch: it drives a model or a clock alike.
"""

from shoal.costs import BLOCK_SIZE
from shoal.scheduler.adapter_slots import AdapterSlots
from shoal.scheduler.batch import AdapterRows, Chunks, Feedback, Retain, ScoredRange, TokenBatch
from shoal.scheduler.forecast import forecast_peak_blocks
from shoal.scheduler.generated import GeneratedTokens
from shoal.scheduler.launches import Launched
from shoal.scheduler.pool import BlockPool
from shoal.scheduler.scheduler import Scheduler
from shoal.scheduler.state_slots import StateSlots
from shoal.scheduler.state_split import StateSplit, state_split
from shoal.scheduler.stats import SchedulerStats

__all__ = [
    "BLOCK_SIZE",
    "AdapterRows",
    "AdapterSlots",
    "BlockPool",
    "Chunks",
    "Feedback",
    "GeneratedTokens",
    "Launched",
    "Retain",
    "Scheduler",
    "SchedulerStats",
    "ScoredRange",
    "StateSlots",
    "StateSplit",
    "TokenBatch",
    "forecast_peak_blocks",
    "state_split",
]
