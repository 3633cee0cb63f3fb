from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cuda.buckets import (
    LEAST_LOGITS,
    MAX_GRAPH_ROWS,
    MOST_STEP,
    bucket_for,
    buckets,
    logit_bucket,
)
from shoal.cuda.graphs import WORK_TIERS, scratch_blocks, tiers


def test_the_buckets() -> None:
    assert buckets()[:8] == (1, 2, 4, 8, 16, 24, 32, 40)
    assert buckets()[-1] == MAX_GRAPH_ROWS
    assert buckets(5) == (1, 2, 4, 5)
    assert buckets(1) == (1,)


@given(st.integers(1, MAX_GRAPH_ROWS))
def test_a_batch_gets_the_least_bucket_that_holds_it(rows: int) -> None:
    size = bucket_for(buckets(), rows)
    assert size is not None
    assert rows <= size
    assert all(other < rows or other >= size for other in buckets())
    assert size - rows < MOST_STEP
    if rows > 64:
        assert (size - rows) / size < 0.12


@given(st.integers(1, MAX_GRAPH_ROWS), st.data())
def test_a_graph_gives_few_logits_more_than_wanted(size: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, size))
    found = logit_bucket(size, rows)
    assert rows <= found <= size
    assert found <= max(LEAST_LOGITS, 2 * rows)
    assert len({logit_bucket(size, wanted) for wanted in range(size + 1)}) <= 4


def test_a_larger_batch_gets_none() -> None:
    assert bucket_for(buckets(), MAX_GRAPH_ROWS + 1) is None


@given(st.sets(st.integers(1, 600), min_size=1))
def test_scratch_holds_any_padding(sizes: set[int]) -> None:
    ascending = tuple(sorted(sizes))
    slots = scratch_blocks(ascending, 32) * 32
    for rows in range(1, ascending[-1] + 1):
        size = bucket_for(ascending, rows)
        assert size is not None
        assert size - rows <= slots


def test_the_tiers() -> None:
    assert tiers(buckets()) == (4096, 512, 64, 8)
    assert tiers((20, 30)) == (30,)


def test_few_blocks_of_scratch_are_enough() -> None:
    assert scratch_blocks(buckets(), 32) == 4


@pytest.mark.parametrize("most", [1, 7, 8, 64, 65, 512])
def test_tiers_are_buckets_from_the_largest_down(most: int) -> None:
    found = tiers(buckets(most))
    assert found[0] == most
    assert set(found) <= set(buckets(most))
    assert list(found) == sorted(found, reverse=True)
    for large, small in pairwise(found):
        assert small * WORK_TIERS <= large
    assert found[-1] <= WORK_TIERS
