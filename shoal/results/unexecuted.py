"""Why requests of a job are never executed: its end came first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unexecuted:
    """What the error records of such requests say.

    Attributes:
        code: a code of the Batch contract: `batch_cancelled` or `batch_expired`.
    """

    code: str
    message: str


CANCELLED = Unexecuted("batch_cancelled", "The batch was cancelled before this request was run.")
EXPIRED = Unexecuted(
    "batch_expired", "The batch's completion window ended before this request was run."
)
ENGINE_FAILED = Unexecuted(
    "engine_failed", "The engine ended again and again before this request was done."
)
