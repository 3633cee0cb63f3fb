"""Scores of prompts until they are somebody's output: of shared segments, and of sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.errors import InternalError
from shoal.planner import Plan
from shoal.sampling.results import PromptScores
from shoal.types import BoolArray, Int64Array, LogprobColumns, PromptLogprobs, RequestTable


@dataclass(slots=True)
class _Rows:
    """The scored rows of one owner, part after part; they follow each other."""

    parts: list[PromptScores] = field(default_factory=list)

    def after(self, position: int, start: int, end: int) -> list[LogprobColumns]:
        """What they say of the prompt's tokens [start, end).

        Args:
            position: of the owner's first token.
        """
        found = []
        for part in self.parts:
            first = position + part.first + 1
            begin, last = max(start - first, 0), min(len(part.rows), end - first)
            if begin < last:
                found.append(part.rows.rows(begin, last))
        return found

    def child(self, token: int) -> LogprobColumns:
        """What the last row says of a token behind it."""
        part = self.parts[-1]
        at = int(np.searchsorted(part.children, token))
        if at == len(part.children) or part.children[at] != token:
            raise InternalError(f"token {token} behind a segment was not scored")
        last = part.rows.rows(len(part.rows) - 1, len(part.rows))
        return LogprobColumns(
            part.child_logprob[at : at + 1],
            part.child_rank[at : at + 1],
            last.top_ids,
            last.top_logprobs,
        )


class ScoreStore:
    """Keeps what was scored, till nobody wants it any more."""

    def __init__(self, table: RequestTable, plan: Plan) -> None:
        self._table = table
        self._start = table.score_start
        self._scored: BoolArray = self._start < table.lengths
        self._asked: BoolArray = table.scored
        self._of_segment: dict[int, _Rows] = {}
        self._of_sequence: dict[int, _Rows] = {}
        self._settled: BoolArray = np.zeros(plan.num_sequences, dtype=np.bool_)
        """Sequences that want nothing any more."""
        self._left: Int64Array = np.zeros(0, dtype=np.int64)
        self.replan(plan, 0)

    def replan(self, plan: Plan, first: int) -> None:
        """Sequences from `first` on, and the segments that begin there, have other numbers."""
        self._plan = plan
        if self._scored.any():
            of_sequence = np.append(0, np.cumsum(self._scored[plan.sequence_request]))
            left = of_sequence[plan.segment_last] - of_sequence[plan.segment_first]
            known = int(np.searchsorted(plan.segment_first, first))
            left[:known] = self._left[:known]
            self._left = left

    def __len__(self) -> int:
        """Owners whose scores are kept."""
        return len(self._of_segment) + len(self._of_sequence)

    def add(self, scores: list[PromptScores]) -> None:
        """Keep what a batch scored, unless nobody is left who wants it."""
        for part in scores:
            if part.shared:
                if self._left[part.owner] > 0:
                    self._of_segment.setdefault(part.owner, _Rows()).parts.append(part)
            elif not self._settled[part.owner]:
                self._of_sequence.setdefault(part.owner, _Rows()).parts.append(part)

    def of(self, sequence: int) -> PromptLogprobs | None:
        """The logprobs of a sequence's prompt, all of which are there; None: none are asked for."""
        request = int(self._plan.sequence_request[sequence])
        if not self._asked[request]:
            return None
        parts = self._parts(sequence, request) if self._scored[request] else []
        num_best = self._table.sampling(request).num_prompt_logprobs or 0
        columns = LogprobColumns.joined(parts).likeliest(num_best)
        prompt, start = self._table.prompt(request), int(self._start[request])
        if len(columns) != len(prompt) - start:
            raise InternalError(
                f"{len(columns)} of {len(prompt) - start} scores of request {request} are there"
            )
        return PromptLogprobs(prompt, columns)

    def drop(self, sequence: int) -> None:
        """A sequence wants nothing any more. Idempotent."""
        if self._settled[sequence] or not self._scored[self._plan.sequence_request[sequence]]:
            return
        self._settled[sequence] = True
        self._of_sequence.pop(sequence, None)
        for segment in self._plan.path(int(self._plan.sequence_segment[sequence])):
            self._left[segment] -= 1
            if self._left[segment] == 0:
                self._of_segment.pop(segment, None)

    def _parts(self, sequence: int, request: int) -> list[LogprobColumns]:
        plan, prompt = self._plan, self._table.prompt(request)
        start, length = int(self._start[request]), len(prompt)
        found: list[LogprobColumns] = []
        for segment in plan.path(int(plan.sequence_segment[sequence])):
            begin = int(plan.segment_start[segment])
            end = begin + int(plan.segment_length[segment])
            if segment not in self._of_segment:
                continue  # it scores nothing for anybody, or only before what is wanted here
            rows = self._of_segment[segment]
            found += rows.after(begin, start, end)
            if start <= end < length:
                found.append(rows.child(int(prompt[end])))
        if sequence in self._of_sequence:
            shared = plan.shared_length_of(sequence)
            found += self._of_sequence[sequence].after(shared, start, length)
        return found
