"""Slots of numbers that come and go, and the tokens kept by them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.scheduler import GeneratedTokens
from shoal.slots import FIRST_CAPACITY, SlotMap


@given(st.lists(st.integers(0, 300), max_size=400), st.sampled_from([1, 1000, 100_003]))
def test_numbers_keep_a_slot_of_their_own_till_they_go(places: list[int], apart: int) -> None:
    slots, held = SlotMap(), dict[int, int]()
    for number in (place * apart for place in places):
        assert (number in slots) == (number in held)
        if number in held:
            assert slots.remove(number) == held.pop(number)
        else:
            held[number] = slots.add(number)
        assert len(slots) == len(held) == len(set(held.values()))
        assert max(held.values(), default=0) < slots.capacity
    every = np.arange(400) * apart
    assert slots.find(every).tolist() == [held.get(number, -1) for number in every]


def test_a_number_without_a_slot_is_an_error() -> None:
    slots = SlotMap()
    for number in (0, 10**6):
        with pytest.raises(KeyError):
            slots[number]
        with pytest.raises(KeyError):
            slots.remove(number)


def test_slots_double_when_all_are_taken() -> None:
    slots = SlotMap()
    taken = [slots.add(number) for number in range(FIRST_CAPACITY)]
    assert (slots.capacity, sorted(taken)) == (FIRST_CAPACITY, list(range(FIRST_CAPACITY)))
    assert slots.add(FIRST_CAPACITY) == FIRST_CAPACITY
    assert slots.capacity == 2 * FIRST_CAPACITY


def test_tokens_are_those_that_were_appended() -> None:
    rng = np.random.default_rng(0)
    generated, expected = GeneratedTokens(), dict[int, list[int]]()
    for _ in range(300):
        sequences = rng.choice(150, int(rng.integers(1, 150)), replace=False)
        tokens = rng.integers(0, 1000, len(sequences)).astype(np.int32)
        counts = generated.append(sequences, tokens)
        for sequence, token in zip(sequences.tolist(), tokens.tolist(), strict=True):
            expected.setdefault(sequence, []).append(token)
        assert counts.tolist() == [len(expected[sequence]) for sequence in sequences.tolist()]
        for sequence in rng.choice(150, 1).tolist():
            generated.forget(sequence)
            expected.pop(sequence, None)
            assert sequence not in generated
    every = np.arange(160)
    assert generated.counts(every).tolist() == [len(expected.get(s, ())) for s in range(160)]
    for sequence in range(160):
        answer = expected.get(sequence, [])
        assert generated.tokens(sequence).tolist() == answer
        assert generated.count(sequence) == len(answer)
        assert [generated.token(sequence, i) for i in range(len(answer))] == answer
    assert max(map(len, expected.values())) > 128


def test_memory_goes_with_the_numbers_that_have_slots() -> None:
    """Sequences of a job of 10^8 come and go as a window that moves."""
    slots = SlotMap()
    for first in range(0, 100_000_000, 1_000_000):
        for number in range(first, first + 300, 100):
            slots.add(number)
        assert slots.find(np.arange(first, first + 300, 100)).min() >= 0
        for number in range(first, first + 300, 100):
            slots.remove(number)
    assert len(slots) == 0
    assert slots._pages.nbytes + slots._page_of.nbytes < 1 << 20
