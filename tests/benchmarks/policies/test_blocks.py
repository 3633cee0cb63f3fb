from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.policies.blocks import PrefixCache, block_hashes
from shoal.errors import InternalError


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def filled(cache: PrefixCache, *hashes: int) -> list[int]:
    """Blocks in use, indexed under these hashes."""
    blocks = cache.allocate(len(hashes))
    for block, one in zip(blocks, hashes, strict=True):
        cache.index(block, one)
    return blocks


def test_hashes_of_full_blocks_only_and_of_all_that_comes_before() -> None:
    a, b = block_hashes(ids(1, 2, 3, 4, 5), 2), block_hashes(ids(9, 2, 3, 4, 5), 2)
    assert len(a) == len(b) == 2
    assert a[0] != b[0]
    assert a[1] != b[1]
    assert block_hashes(ids(1), 2) == []
    assert block_hashes(ids(1, 2, 3, 4, 5, 6), 2)[:2] == a


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 20), st.integers(1, 4))
def test_hashes_may_be_continued(tokens: list[int], first: int, size: int) -> None:
    whole = block_hashes(ids(*tokens), size)
    begun = block_hashes(ids(*tokens[:first]), size)
    assert block_hashes(ids(*tokens), size, begun) == whole


def test_the_longest_run_is_found() -> None:
    cache = PrefixCache(4, 2)
    blocks = filled(cache, 10, 11, 12)
    assert cache.match([10, 11, 99, 12]) == blocks[:2]
    assert cache.match([11]) == [blocks[1]]
    assert cache.match([7, 10]) == []


def test_a_free_block_can_be_held_again_until_it_is_given_away() -> None:
    cache = PrefixCache(2, 2)
    blocks = filled(cache, 10, 11)
    cache.release(blocks)
    assert cache.free_blocks == 2
    assert cache.free_among(blocks) == 2
    cache.hold([blocks[0]])
    assert cache.free_blocks == 1
    assert cache.allocate(1) == [blocks[1]]
    assert cache.match([10, 11]) == [blocks[0]]


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning() -> None:
    cache = PrefixCache(3, 2)
    cache.release(filled(cache, 10, 11, 12))
    for left in ([10, 11], [10], []):
        cache.allocate(1)
        assert len(cache.match([10, 11, 12])) == len(left)


def test_the_least_recently_released_goes_first() -> None:
    cache = PrefixCache(2, 2)
    old, new = filled(cache, 10), filled(cache, 20)
    cache.release(old)
    cache.release(new)
    cache.hold(old)
    cache.release(old)
    cache.allocate(1)
    assert cache.match([20]) == []
    assert cache.match([10]) == old


def test_blocks_that_nobody_can_find_are_given_away_first() -> None:
    cache = PrefixCache(2, 2)
    known, unknown = filled(cache, 10), cache.allocate(1)
    cache.release(known)
    cache.release(unknown)
    assert cache.allocate(1) == unknown


def test_of_equal_blocks_the_first_stays() -> None:
    cache = PrefixCache(2, 2)
    first, second = filled(cache, 10), filled(cache, 10)
    assert cache.match([10]) == first
    cache.release(second)
    assert cache.allocate(1) == second
    assert cache.match([10]) == first


def test_users_are_counted() -> None:
    cache = PrefixCache(1, 2)
    block = filled(cache, 10)
    cache.hold(block)
    cache.release(block)
    assert cache.free_blocks == 0
    cache.release(block)
    assert cache.free_blocks == 1
    with pytest.raises(InternalError, match="freed twice"):
        cache.release(block)
