import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.scheduler import forecast_peak_blocks
from shoal.scheduler.forecast import PeakForecast


def simulated_peak(held: list[int], growth: list[int], block_size: int) -> int:
    """Let every sequence grow by one token per iteration and leave when it is done."""
    peak = 0
    for step in range(max(growth, default=0) + 1):
        alive = [h + step for h, g in zip(held, growth, strict=True) if g >= step]
        peak = max(peak, sum(-(-tokens // block_size) for tokens in alive))
    return peak


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), max_size=12),
    st.sampled_from([1, 2, 3, 16]),
)
def test_forecast_is_the_exact_peak(sequences: list[tuple[int, int]], block_size: int) -> None:
    held = [h for h, _ in sequences]
    growth = [g for _, g in sequences]
    forecast = forecast_peak_blocks(np.array(held, int), np.array(growth, int), block_size)
    assert forecast == simulated_peak(held, growth, block_size)


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), max_size=8),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), max_size=4),
    st.sampled_from([1, 3, 16]),
)
def test_the_short_cuts_answer_as_the_forecast_does(
    running: list[tuple[int, int]], more: list[tuple[int, int]], block_size: int
) -> None:
    columns = np.array(running, dtype=np.int64).reshape(-1, 2).T
    forecast = PeakForecast(columns[0], columns[1], block_size)
    together = list(running)
    for held, growth in more:
        forecast.add(held, growth)
        together.append((held, growth))
        peak = simulated_peak(*(list(c) for c in zip(*together, strict=True)), block_size)
        for blocks in range(max(0, peak - 3), peak + 4):
            assert forecast.fits(blocks) == (peak <= blocks)
