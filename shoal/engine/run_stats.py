"""What a run has done so far, and its summary at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.types import LengthCounts, PlanFigures, RunSummary, TokenCounts


@dataclass
class RunStats:
    """Live counts of a run."""

    iterations: int = 0
    tokens: int = 0
    prompt_tokens_computed: int = 0
    prompt_tokens_recomputed: int = 0
    """Those of them beyond the plan; see `TokenCounts`."""
    generated_tokens: int = 0
    running_sequences: int = 0
    kv_bytes_in_use: int = 0
    peak_kv_bytes: int = 0
    preemptions: int = 0
    lengths: LengthCounts = field(default_factory=LengthCounts)
    device_seconds: list[float] = field(default_factory=list)
    """How long each of several devices had requests to run; empty for one."""

    def summarise(self, planned: PlanFigures, summary: RunSummary) -> None:
        """Fill in what the run did. `summary.seconds` must be set; requests are the caller's."""
        summary.plan = planned
        summary.tokens = TokenCounts(
            prompt=planned.prompt_tokens,
            prompt_computed=planned.computed_prompt_tokens,
            prompt_saved=planned.prompt_tokens - planned.computed_prompt_tokens,
            generated=self.generated_tokens,
            recomputed=self.prompt_tokens_recomputed,
        )
        summary.throughput = self.generated_tokens / max(summary.seconds.run, 1e-9)
        summary.peak_kv_bytes = self.peak_kv_bytes
        summary.kv_peak_bytes_forecast = planned.kv_peak_bytes
        summary.iterations = self.iterations
        summary.preemptions = self.preemptions
        summary.lengths = self.lengths
        summary.device_seconds = self.device_seconds
        summary.mean_tokens_per_iteration = self.tokens / max(self.iterations, 1)
