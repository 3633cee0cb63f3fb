"""Small jobs for the planner's tests: tables from lists, and strategies for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from hypothesis import strategies as st

from shoal.types import RequestParams, RequestTable


@dataclass
class Job:
    """Prompts with choices and expected lengths; each token of `words` stands `run` times."""

    words: list[list[int]]
    choices: list[int] = field(default_factory=list)
    expected: list[int] = field(default_factory=list)
    max_new: int = 8
    run: int = 1

    def __post_init__(self) -> None:
        self.choices = self.choices or [1] * len(self.words)
        self.expected = self.expected or [4] * len(self.words)

    @cached_property
    def prompts(self) -> list[list[int]]:
        return [[token for token in word for _ in range(self.run)] for word in self.words]

    @property
    def table(self) -> RequestTable:
        n = len(self.prompts)
        distinct = sorted(set(self.choices))
        return RequestTable(
            tokens=np.array([t for p in self.prompts for t in p], dtype=np.int32),
            offsets=np.cumsum([0, *map(len, self.prompts)]).astype(np.int64),
            params=[RequestParams(n=c) for c in distinct],
            params_index=np.array([distinct.index(c) for c in self.choices], dtype=np.int32),
            max_new_tokens=np.full(n, self.max_new, dtype=np.int32),
            expected_new_tokens=np.array(self.expected, dtype=np.int32),
            seeds=np.zeros(n, dtype=np.int64),
            has_seed=np.zeros(n, dtype=np.bool_),
            line=np.arange(n),
        )

    def permuted(self, order: Sequence[int]) -> Job:
        return replace(
            self,
            words=[self.words[i] for i in order],
            choices=[self.choices[i] for i in order],
            expected=[self.expected[i] for i in order],
        )


@st.composite
def jobs(draw: st.DrawFn, max_requests: int = 12, max_choices: int = 3, max_runs: int = 130) -> Job:
    """Prompts of few distinct tokens, so that they share much.

    Some repeat each token, often enough to cross the widths that the forest
    compares at a time.
    """
    words = draw(
        st.lists(
            st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=max_requests
        )
    )
    size = len(words)
    return Job(
        words=words,
        choices=draw(st.lists(st.integers(1, max_choices), min_size=size, max_size=size)),
        expected=draw(st.lists(st.integers(1, 6), min_size=size, max_size=size)),
        run=draw(st.sampled_from([run for run in (1, 1, 1, 7, 130) if run <= max_runs])),
    )
