"""From completed requests to completed lines, and how much work is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal.types import Completion, RequestTable

if TYPE_CHECKING:
    from shoal.engine.engine import RunStats


class Collector:
    """Gathers the completions of a run by line.

    A line with several prompts is several requests in a row, and complete with the last of them.
    """

    def __init__(self, table: RequestTable, planned_prompt_tokens: int) -> None:
        self._line = table.line
        self._expected = table.expected_output.astype(np.int64) * table.choices
        self._expected_left = int(self._expected.sum())
        self._planned_prompt_tokens = planned_prompt_tokens
        self._finished_tokens = 0
        self._waiting: defaultdict[int, list[Completion]] = defaultdict(list)
        self.unfinished = len(table)
        """Requests not completed yet."""

    def take(
        self, completions: Sequence[Completion]
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """The lines these complete, each with its requests' completions in order."""
        for completion in completions:
            self.unfinished -= 1
            self._expected_left -= int(self._expected[completion.request_index])
            self._finished_tokens += completion.generated_tokens
            line = int(self._line[completion.request_index])
            parts = self._waiting[line]
            parts.append(completion)
            if len(parts) == self._prompts_of(line):
                del self._waiting[line]
                yield line, tuple(sorted(parts, key=lambda part: part.request_index))

    def remaining_tokens(self, stats: RunStats) -> int:
        """Prompt tokens to compute and tokens expected to be generated, still to come."""
        prompt = self._planned_prompt_tokens - stats.prompt_tokens_computed
        generated_by_running = stats.generated_tokens - self._finished_tokens
        return max(0, prompt) + max(0, self._expected_left - generated_by_running)

    def _prompts_of(self, line: int) -> int:
        first, last = np.searchsorted(self._line, (line, line + 1))
        return int(last - first)
