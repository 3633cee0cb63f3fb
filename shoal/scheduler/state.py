"""What changes while a plan runs."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.scheduler.adapter_slots import AdapterSlots
from shoal.scheduler.generated import GeneratedTokens
from shoal.scheduler.ledger import BlockLedger
from shoal.scheduler.retained import RetainedLogits
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.scoring import PromptScoring
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.sequence_columns import SequenceColumns
from shoal.scheduler.state_slots import StateSlots


@dataclass(frozen=True)
class RunState:
    """Sequences and segments of a run, each part changed by its own methods alone.

    `Admission` says who runs, `Launches` what has been computed, scored and sampled, and the
    scheduler what was generated and who has left; `BatchBuilder` only reads.
    """

    columns: SequenceColumns
    running: RunningSequences
    segments: SegmentTable
    retained: RetainedLogits
    generated: GeneratedTokens
    ledgers: list[BlockLedger]
    """Where the KV is, in each group of layers."""
    scoring: PromptScoring
    states: StateSlots | None = None
    adapters: AdapterSlots | None = None
