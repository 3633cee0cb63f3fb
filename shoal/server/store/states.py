"""The statuses of a batch, and which follow which.

    validating ─► in_progress ─► finalizing ─► completed
        │              │  └────────────────────► expired
        ├─► failed     │
        └──────────────┴─► cancelling ─► cancelled

Batches that wait for their turn are `in_progress`.
"""

from __future__ import annotations

VALIDATING, IN_PROGRESS, FINALIZING = "validating", "in_progress", "finalizing"
COMPLETED, FAILED, EXPIRED = "completed", "failed", "expired"
CANCELLING, CANCELLED = "cancelling", "cancelled"

RUNNING = (IN_PROGRESS, FINALIZING)
"""Whose job runs, or waits to."""
UNFINISHED = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)
"""Whose input file is still read."""
FINISHED = (COMPLETED, FAILED, EXPIRED, CANCELLED)
