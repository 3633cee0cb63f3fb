"""How much KV each sequence is expected to need yet: from limits, or from learnt lengths."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.planner import LengthModel, Plan
from shoal.scheduler.forecast import remaining_growth
from shoal.types import Int64Array, LengthCounts, RequestTable

LEVELS = (0.1, 0.5, 0.9)
"""Quantiles predicted for every sequence at its admission, to be compared with what it becomes."""
_GOLDEN = (5**0.5 - 1) / 2
_AHEAD = 256
"""Sequences to come whose growth is worked out together."""


class StatedGrowth:
    """From each request's expected length and limit: the prior, doubled when outlived."""

    caution = 0.0

    def __init__(self, table: RequestTable, plan: Plan) -> None:
        self._table = table
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Sequences not yet admitted have other numbers from now on."""
        request = plan.sequence_request
        self._limit = self._table.max_new_tokens[request].astype(np.int64)
        self._expected = self._table.expected_new_tokens[request].astype(np.int64)
        every = np.arange(len(request))
        self._at_first = self.running(every, np.zeros(len(request), dtype=np.int64))

    def running(self, sequences: Int64Array, generated: Int64Array) -> Int64Array:
        """Tokens of KV that sequences have still to store, int64 [R]."""
        return remaining_growth(generated, self._expected[sequences], self._limit[sequences])

    def waiting(self, sequence: int, generated: int) -> int:
        """The same for one that is about to be admitted."""
        if generated == 0:
            return int(self._at_first[sequence])
        return int(self.running(np.array([sequence]), np.array([generated]))[0])

    def refresh(self, sequences: Int64Array, generated: Int64Array, upcoming: int) -> None:
        """Nothing is learnt."""

    def admitted(self, sequence: int) -> None:
        """Nothing is predicted."""

    def finished(self, sequences: Int64Array, lengths: Int64Array) -> None:
        """Nothing is learnt."""


@dataclass
class QuantileCoverage:
    """How often answers kept within the quantiles predicted at their admission.

    Attributes:
        answers: how many have ended, of those that could end before their limit.
        within: how many of them were at most as long as each of `LEVELS` predicted.
    """

    answers: int = 0
    within: Int64Array = field(default_factory=lambda: np.zeros(len(LEVELS), dtype=np.int64))

    def report(self, counts: LengthCounts) -> None:
        """Write the shares down."""
        counts.answers = self.answers
        shares = (self.within / max(self.answers, 1)).tolist()
        counts.within_10, counts.within_50, counts.within_90 = shares


class LearntGrowth:
    """From a `LengthModel`: each sequence at its own quantile of its conditional distribution.

    The quantiles are spread evenly over the sequences (multiples of the golden ratio, modulo 1), so
    that those of the running sequences together look as the lengths will: some end soon and make
    room, some stay long. The peak of the sum is then right although no single length is. LightLLM's
    Past-Future scheduler (ASPLOS 2025) draws the lengths at random instead.
    """

    caution = 0.25
    """See `PeakForecast`; found by simulation, docs/planner.md has the figures."""

    def __init__(self, plan: Plan, lengths: LengthModel) -> None:
        self.coverage = QuantileCoverage()
        self._lengths = lengths
        self._predicted: dict[int, Int64Array] = {}
        self.replan(plan)

    def replan(self, plan: Plan) -> None:
        """Sequences not yet admitted have other numbers from now on."""
        self._request = plan.sequence_request.astype(np.int64)
        self._ahead = (0, 0)
        self._known_until = 0

    def running(self, sequences: Int64Array, generated: Int64Array) -> Int64Array:
        """Tokens of KV that sequences have still to store, int64 [R]."""
        level = np.asarray((sequences + 1) * _GOLDEN % 1.0, dtype=np.float64)
        length = self._lengths.quantile(self._request[sequences], generated, level)
        growth: Int64Array = np.maximum(length - 1 - generated, 0)  # the last is never stored
        return growth

    def waiting(self, sequence: int, generated: int) -> int:
        """The same for one that is about to be admitted."""
        if generated:
            return int(self.running(np.array([sequence]), np.array([generated]))[0])
        self._look_ahead(sequence)
        return self._growth_ahead[sequence - self._ahead[0]]

    def refresh(self, sequences: Int64Array, generated: Int64Array, upcoming: int) -> None:
        """Learn from what has ended, if that is enough; called before admissions.

        Args:
            sequences, generated: int64 [R], all that have begun, and the tokens each has.
            upcoming: the first sequence that has not been admitted.
        """
        if not self._lengths.stale and upcoming < self._known_until:
            return
        end = min(upcoming + _AHEAD, len(self._request))
        request = self._request[np.append(sequences, np.arange(upcoming, end))]
        age = np.append(generated, np.zeros(end - upcoming, dtype=np.int64))
        self._lengths.estimate(request, age)
        self._ahead = (0, 0)
        self._known_until = upcoming + _AHEAD // 2

    def admitted(self, sequence: int) -> None:
        """Remember what is predicted for a sequence admitted for the first time."""
        self._look_ahead(sequence)
        if self._learns_ahead[sequence - self._ahead[0]]:
            self._predicted[sequence] = self._quantiles_ahead[:, sequence - self._ahead[0]]

    def finished(self, sequences: Int64Array, lengths: Int64Array) -> None:
        """Learn from answers that have ended: int64 [R] each."""
        self._lengths.observe(self._request[sequences], lengths)
        for sequence, length in zip(sequences.tolist(), lengths.tolist(), strict=True):
            predicted = self._predicted.pop(sequence, None)
            if predicted is not None:
                self.coverage.answers += 1
                self.coverage.within += length <= predicted

    def _look_ahead(self, sequence: int) -> None:
        first, end = self._ahead
        if first <= sequence < end:
            return
        end = min(sequence + _AHEAD, len(self._request))
        self._ahead = (sequence, end)
        sequences = np.arange(sequence, end)
        request, none = self._request[sequences], np.zeros(end - sequence, dtype=np.int64)
        self._growth_ahead: list[int] = self.running(sequences, none).tolist()
        self._learns_ahead: list[bool] = (~self._lengths.fixed[request]).tolist()
        self._quantiles_ahead = np.stack(
            [self._lengths.quantile(request, none, np.full(len(none), p)) for p in LEVELS]
        )
