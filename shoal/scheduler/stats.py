"""Counts of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SchedulerStats:
    """Counts of a run so far: of what was settled or failed, nothing that is under way."""

    iterations: int = 0
    tokens: int = 0
    """Tokens run through the model, prefill and decode."""
    prompt_tokens_computed: int = 0
    """Each as often as it went through the model, in batches that failed too."""
    prompt_tokens_recomputed: int = 0
    """Those that had been computed before, and all of batches that failed."""
    generated_tokens: int = 0
    preemptions: int = 0
    """Sequences preempted, and segments evicted before their last user came."""

    def settled(self, tokens: int, generated: int) -> None:
        """One iteration more, of so many tokens."""
        self.iterations += 1
        self.tokens += tokens
        self.generated_tokens += generated

    def computed(self, prompt_tokens: int, *, again: int) -> None:
        """So many prompt tokens more went through the model, `again` of them not for the first
        time."""
        self.prompt_tokens_computed += prompt_tokens
        self.prompt_tokens_recomputed += again

    def preempted(self, count: int) -> None:
        """So many sequences or segments more gave way."""
        self.preemptions += count
