"""A call of an `LLM` under way."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import blake2b

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


def job_seed(seed: int | None, number: int) -> int:
    """What the draws of an `LLM`'s call of this number begin with; None: of nothing known."""
    if seed is None:
        return secrets.randbits(62)
    digest = blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2
