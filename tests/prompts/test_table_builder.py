from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.prompts.length_rules import OutputLength
from shoal.prompts.table_builder import TableBuilder
from shoal.types import RequestParams

PARAMS = [RequestParams(top_k=k) for k in range(3)]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_columns_without_some_lines(prompts: list[list[int]], without: set[int]) -> None:
    builder = TableBuilder()
    for line, prompt in enumerate(prompts):
        params = PARAMS[line % 3]
        seed = None if line % 2 else -line
        length = OutputLength(line + 2, line + 1)
        builder.add(line, prompt, params, str(params).encode(), seed, length)
    dropped = np.array(sorted(without), dtype=np.int64)
    assert set(builder.lines_among(dropped)) == without & set(range(len(prompts)))
    table = builder.build(job_seed=5, without_lines=dropped)
    kept = [line for line in range(len(prompts)) if line not in without]
    assert table.line.tolist() == kept
    assert [table.prompt(i).tolist() for i in range(len(table))] == [prompts[k] for k in kept]
    assert len(table.tokens) == table.offsets[-1]
    assert [table.sampling(i) for i in range(len(table))] == [PARAMS[k % 3] for k in kept]
    assert table.max_new_tokens.tolist() == [k + 2 for k in kept]
    assert table.expected_new_tokens.tolist() == [k + 1 for k in kept]
    assert table.seeds.tolist() == [0 if k % 2 else -k for k in kept]
    assert table.has_seed.tolist() == [k % 2 == 0 for k in kept]
    assert table.job_seed == 5


def test_types_and_sharing_of_parameters() -> None:
    builder = TableBuilder()
    for line in range(4):
        builder.add(line, [1, 2], PARAMS[0], b"same", 2**63 - 1, OutputLength(1, 1))
    table = builder.build(job_seed=0, without_lines=np.array([], dtype=np.int64))
    assert table.params == (PARAMS[0],)
    assert table.tokens.dtype == table.params_index.dtype == np.int32
    assert table.seeds.tolist() == [2**63 - 1] * 4


def test_nothing_at_all() -> None:
    table = TableBuilder().build(job_seed=0, without_lines=np.array([], dtype=np.int64))
    assert len(table) == 0
    assert table.offsets.tolist() == [0]
