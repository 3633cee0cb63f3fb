"""Requests that have finished, counted as vLLM's metrics count them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.types import Completion, RequestTable

REASONS = ("stop", "length", "abort", "error", "repetition")
"""Why a request has finished, in vLLM's words. Nothing of ours ends for a repetition."""
TOKEN_BUCKETS = (*(part * 10**power for power in range(6) for part in (1, 2, 5)), 10**6)
"""Upper bounds of histograms of a request's tokens; vLLM's end at the model's longest."""
CHOICE_BUCKETS = (1, 2, 5, 10, 20)
"""Upper bounds of the histogram of `n`."""


@dataclass(frozen=True)
class Tally:
    """A histogram: how many values fell below each bound and above the one before, and beyond.

    Attributes:
        counts: one per bound and one more; empty: there was no value yet.
    """

    counts: tuple[int, ...] = ()
    total: int = 0

    @classmethod
    def of(cls, values: Sequence[int], bounds: Sequence[int]) -> Tally:
        """Of some values."""
        if not len(values):
            return cls()
        places = np.searchsorted(bounds, values)
        counts = np.bincount(places, minlength=len(bounds) + 1)
        return cls(tuple(counts.tolist()), int(np.sum(values)))

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        if not self.counts or not other.counts:
            return self if self.counts else other
        sums = zip(self.counts, other.counts, strict=True)
        return Tally(tuple(a + b for a, b in sums), self.total + other.total)


@dataclass(frozen=True)
class FinishedRequests:
    """Counts of requests; each choice of one counts, but where it is said otherwise.

    Attributes:
        reasons: one count per `REASONS`.
        prompt_tokens, generated_tokens, max_tokens: of those that answered.
        longest, choices: once per request: the tokens of its longest answer, and its `n`.
    """

    reasons: tuple[int, ...] = (0,) * len(REASONS)
    prompt_tokens: Tally = field(default_factory=Tally)
    generated_tokens: Tally = field(default_factory=Tally)
    max_tokens: Tally = field(default_factory=Tally)
    longest: Tally = field(default_factory=Tally)
    choices: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, completions: Iterable[Completion], table: RequestTable) -> FinishedRequests:
        """Of requests of a table."""
        reasons = dict.fromkeys(REASONS, 0)
        prompts, generated, limits = list[int](), list[int](), list[int]()
        longest, choices = list[int](), list[int]()
        for each in completions:
            if each.error is not None:
                reasons["abort" if each.error.code == "cancelled" else "error"] += 1
                continue
            lengths = [len(choice.token_ids) for choice in each.choices]
            for choice in each.choices:
                reasons[choice.finish_reason] += 1
            if not lengths:  # a vector, or scores of the prompt
                reasons["stop"] += 1
            else:
                limits += [int(table.max_new_tokens[each.request_index])] * len(lengths)
                longest.append(max(lengths))
                choices.append(len(lengths))
            prompts += [each.prompt_tokens] * max(len(lengths), 1)
            generated += lengths or [0]
        return cls(
            tuple(reasons.values()),
            Tally.of(prompts, TOKEN_BUCKETS),
            Tally.of(generated, TOKEN_BUCKETS),
            Tally.of(limits, TOKEN_BUCKETS),
            Tally.of(longest, TOKEN_BUCKETS),
            Tally.of(choices, CHOICE_BUCKETS),
        )

    def plus(self, other: FinishedRequests) -> FinishedRequests:
        """Both together."""
        return FinishedRequests(
            tuple(a + b for a, b in zip(self.reasons, other.reasons, strict=True)),
            self.prompt_tokens.plus(other.prompt_tokens),
            self.generated_tokens.plus(other.generated_tokens),
            self.max_tokens.plus(other.max_tokens),
            self.longest.plus(other.longest),
            self.choices.plus(other.choices),
        )
