"""A call of an `LLM` under way."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.llm.asked_adapters import Loras


@dataclass(frozen=True)
class LLMCall:
    """A call under way.

    Attributes:
        began: seconds, by `time.perf_counter`.
        job_seed: what prompts without a seed of their own draw from.
        loras: the adapters asked for.
    """

    began: float
    job_seed: int
    loras: Loras = None
