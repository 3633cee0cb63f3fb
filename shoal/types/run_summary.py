"""A run in numbers: its plan, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any


@dataclass
class RequestCounts:
    """Requests of a run."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass
class TokenCounts:
    """Tokens of a run.

    `prompt` counts each choice's prompt, as an engine without sharing computes them;
    `prompt` = `prompt_computed` + `prompt_saved`, which are those of the plan that the run began
    with. `recomputed` are prompt tokens that went through the model beyond it: again after a
    preemption, in a batch that failed, or on a device that took work over.
    """

    prompt: int = 0
    prompt_computed: int = 0
    prompt_saved: int = 0
    generated: int = 0
    recomputed: int = 0


@dataclass
class PhaseSeconds:
    """Wall-clock seconds of a run's phases."""

    plan: float = 0.0
    load: float = 0.0
    run: float = 0.0
    total: float = 0.0


@dataclass
class LengthCounts:
    """How the lengths of answers were predicted, of those that could end before their limit.

    `within_10`, `within_50` and `within_90` are the shares of answers at most as long as the 10,
    50 and 90 % quantiles predicted when they began: near 0.1, 0.5 and 0.9 if the predictions were
    right.
    """

    answers: int = 0
    pilots: int = 0
    """Sequences run first, as a sample."""
    within_10: float = 0.0
    within_50: float = 0.0
    within_90: float = 0.0


@dataclass(frozen=True)
class PlanFigures:
    """The plan that a run begins with, in numbers; of several devices together.

    `shoal plan --json` and the run's summary have the same where machine and job are the same.
    """

    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    segments: int = 0
    """Prefixes computed once for several sequences."""
    pilots: int = 0
    """Sequences that run first, as a sample."""
    order: str = ""
    """An `Order`; several where devices chose differently."""
    kv_peak_bytes: int = 0
    """KV expected at the fullest moment."""
    digest: str = ""
    """Of everything in it, the order of the sequences included."""

    @classmethod
    def together(cls, parts: Sequence[PlanFigures]) -> PlanFigures:
        """Those of several devices, of which each runs a plan of its own; of one, its own."""
        if len(parts) == 1:
            return parts[0]
        digests = ",".join(part.digest for part in parts)
        return cls(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            computed_prompt_tokens=sum(part.computed_prompt_tokens for part in parts),
            segments=sum(part.segments for part in parts),
            pilots=sum(part.pilots for part in parts),
            order=", ".join(sorted({part.order for part in parts})),
            kv_peak_bytes=sum(part.kv_peak_bytes for part in parts),
            digest=blake2b(digests.encode(), digest_size=8).hexdigest(),
        )


@dataclass
class RunSummary:
    """What a run did: the object behind `--summary` and `LLM.last_run`."""

    requests: RequestCounts = field(default_factory=RequestCounts)
    tokens: TokenCounts = field(default_factory=TokenCounts)
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    throughput: float = 0.0
    """Generated tokens per second of the run phase."""
    peak_kv_bytes: int = 0
    kv_peak_bytes_forecast: int = 0
    """What the plan expected `peak_kv_bytes` to be."""
    iterations: int = 0
    preemptions: int = 0
    """Sequences and idle segments that gave way when memory ran out, and were computed again."""
    mean_tokens_per_iteration: float = 0.0
    lengths: LengthCounts = field(default_factory=LengthCounts)
    device_seconds: list[float] = field(default_factory=list)
    """How long each of several devices had requests to run."""
    plan: PlanFigures = field(default_factory=PlanFigures)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return asdict(self)
