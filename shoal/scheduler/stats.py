"""Counts of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SchedulerStats:
    """Counts of a run so far: of what was settled, nothing that is under way."""

    iterations: int = 0
    tokens: int = 0
    """Tokens run through the model, prefill and decode."""
    prompt_tokens_computed: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    """Sequences preempted, and segments evicted before their last user came."""

    def settled(self, tokens: int, prompt_tokens: int, generated: int) -> None:
        """One iteration more, of so many tokens."""
        self.iterations += 1
        self.tokens += tokens
        self.prompt_tokens_computed += prompt_tokens
        self.generated_tokens += generated

    def preempted(self, count: int) -> None:
        """So many sequences or segments more gave way."""
        self.preemptions += count
