import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sampling.random import seeded_key, stream_key, uniform
from tests.helpers.request_tables import one, table
from tests.helpers.statistics import chi_square_p

PROMPT = np.array([5, 6, 7], dtype=np.int32)


def keys(*values):
    return np.array(values, dtype=np.uint64)


def positions(*values):
    return np.array(values, dtype=np.int64)


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def stream(key, count=20_000):
    return uniform(np.full(count, key, dtype=np.uint64), np.arange(count))


def assert_uniform(numbers):
    counts = np.histogram(numbers, bins=64, range=(0, 1))[0]
    assert chi_square_p(counts, np.full(64, 1 / 64)) > 1e-3


def test_a_stream_is_uniform_and_uncorrelated():
    numbers = stream(seeded_key(1, PROMPT, 0))
    assert_uniform(numbers)
    for lag in (1, 2, 17):
        assert abs(correlation(numbers[:-lag], numbers[lag:])) < 0.03


def test_one_position_across_streams_is_uniform():
    streams = np.array([seeded_key(seed, PROMPT, 0) for seed in range(20_000)], dtype=np.uint64)
    assert_uniform(uniform(streams, np.zeros(len(streams), dtype=np.int64)))


def test_splitmix64_is_the_published_one():
    # The first outputs of the reference implementation from state 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected = [((bits >> 12) + 0.5) * 2.0**-52 for bits in published]
    assert uniform(keys(*[1234567] * 3), positions(0, 1, 2)).tolist() == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31 - 1))
def test_numbers_lie_strictly_inside_and_ignore_company(key, position):
    alone = uniform(keys(key), positions(position))[0]
    assert 0 < alone < 1
    assert uniform(keys(3, key, 9), positions(1, position, 0))[1] == alone


def test_choices_are_independent():
    streams = [stream(seeded_key(7, PROMPT, choice)) for choice in range(3)]
    assert abs(correlation(streams[0], streams[1])) < 0.03
    assert abs(correlation(streams[1], streams[2])) < 0.03


def test_prompts_under_one_seed_are_independent():
    other = np.array([5, 6, 8], dtype=np.int32)
    pair = [stream(seeded_key(7, prompt, 0)) for prompt in (PROMPT, other)]
    assert abs(correlation(*pair)) < 0.03


def test_a_seeded_key_ignores_place_and_job():
    request = one([1, 2, 3], seed=42)
    alone = stream_key(table([request]), 0, 1)
    batch = table([one([9]), request], job_seed=5, lines=[10, 77])
    assert stream_key(batch, 1, 1) == alone
    assert alone == seeded_key(42, np.array([1, 2, 3], dtype=np.int32), 1)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_every_seed_has_its_own_key(seed):
    assert 0 <= seeded_key(seed, PROMPT, 0) < 2**64
    assert seeded_key(seed, PROMPT, 0) != seeded_key(seed ^ 1, PROMPT, 0)


def test_without_seed_lines_differ_and_the_line_decides():
    twice = table([one([1, 2]), one([1, 2])], job_seed=3, lines=[4, 9])
    moved = table([one([1, 2]), one([8]), one([1, 2])], job_seed=3, lines=[9, 0, 4])
    other_job = table([one([1, 2])], job_seed=4, lines=[4])
    assert stream_key(twice, 0, 0) != stream_key(twice, 1, 0)
    assert stream_key(twice, 0, 0) == stream_key(moved, 2, 0)
    assert stream_key(twice, 0, 0) != stream_key(twice, 0, 1)
    assert stream_key(twice, 0, 0) != stream_key(other_job, 0, 0)
