from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import OptionError
from shoal.machine.device_memory import (
    GIB,
    MemoryReading,
    check_stated,
    held_by_others,
    no_room,
    peak_of,
)
from tests.helpers.cuda_standins import MadeUpMemory

READING = MemoryReading(
    total=100 * GIB, other=GIB, weights=15 * GIB, activations=4 * GIB, graphs=GIB // 2
)


def test_kv_gets_what_is_left_of_the_fraction() -> None:
    assert READING.left(1.0) == 100 * GIB - GIB - 15 * GIB - 4 * GIB - GIB // 2
    assert READING.left(0.9) == READING.left(1.0) - 10 * GIB
    assert MemoryReading(GIB, 0, 2 * GIB, 0).left(1.0) == -GIB


@given(st.integers(0, 2**40), *[st.integers(0, 2**38)] * 4, st.floats(0.01, 1))
def test_all_parts_together_never_exceed_the_fraction(
    total: int, other: int, weights: int, activations: int, graphs: int, fraction: float
) -> None:
    reading = MemoryReading(total, other, weights, activations, graphs)
    used = reading.left(fraction) + other + weights + activations + graphs
    assert used <= total * fraction < used + 1


def test_a_stated_size_that_fits_is_taken() -> None:
    check_stated(READING.left(0.9), READING, 0.9)


def test_a_stated_size_that_does_not_fit_is_refused_with_all_figures() -> None:
    with pytest.raises(OptionError) as raised:
        check_stated(READING.left(0.9) + 1, READING, 0.9)
    said = str(raised.value)
    for part in ("69.50 GiB", "90.00 GiB", "100.00 GiB", "15.00 GiB weights", "memory_fraction"):
        assert part in said
    assert "4.00 GiB the largest batch" in said
    assert "1.00 GiB CUDA itself" in said


def test_no_room_names_the_batch() -> None:
    assert "batches of 8192 tokens" in str(no_room(READING, 0.9, 8192))


def test_what_others_hold_is_neither_free_nor_ours() -> None:
    memory = MadeUpMemory(size=1000, others=70, held=200)
    assert held_by_others(memory) == 70
    memory.take(500)
    assert held_by_others(memory) == 70


def test_the_peak_counts_from_what_is_there() -> None:
    memory = MadeUpMemory(size=1000, held=200)
    memory.take(600)
    memory.take(-600)

    def work() -> None:
        memory.take(300)
        memory.take(-100)

    assert peak_of(memory, work) == 300
    assert peak_of(memory, lambda: None) == 0
