"""A call of an `LLM` under way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LLMCall:
    """A call under way.

    Attributes:
        began: seconds, by `time.perf_counter`.
        job_seed: what prompts without a seed of their own draw from.
    """

    began: float
    job_seed: int
