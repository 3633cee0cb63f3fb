"""Hazards against a plain Kaplan-Meier product, tables against sums and searches by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.planner.survival import AgeBins, SurvivalTable, hazards

answers = st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=30)
"""(length, whether it ended there): where it did not, it was last seen with length - 1."""


def counts(answers: list[tuple[int, bool]], longest: int = 40) -> tuple[np.ndarray, np.ndarray]:
    ended, censored = np.zeros(longest, dtype=np.int64), np.zeros(longest, dtype=np.int64)
    for length, has_ended in answers:
        if has_ended:
            ended[length - 1] += 1
        elif length > 1:
            censored[length - 2] += 1
    return ended, censored


def kaplan_meier(answers: list[tuple[int, bool]], age: int) -> float:
    """The product of 1 - deaths / at risk, answer by answer."""
    survival = 1.0
    for a in range(1, age + 1):
        at_risk = sum(length >= a if ended else length > a for length, ended in answers)
        deaths = sum(length == a and ended for length, ended in answers)
        if at_risk:
            survival *= 1 - deaths / at_risk
    return survival


@given(answers)
def test_without_a_prior_it_is_kaplan_meier(answers: list[tuple[int, bool]]) -> None:
    hazard = hazards(*counts(answers), np.zeros(40), 0.0)
    table = SurvivalTable(AgeBins.up_to(40), hazard[None])
    expected = [kaplan_meier(answers, age) for age in range(41)]
    assert table.survival[0] == pytest.approx(expected)


def test_answers_under_way_correct_for_the_early_ones() -> None:
    """Of four answers that begin together one ends after 3: the others are longer, not unknown."""
    ended, censored = counts([(3, True), (4, False), (4, False), (4, False)])
    survival = SurvivalTable(AgeBins.up_to(40), hazards(ended, censored, np.zeros(40), 0.0)[None])
    assert survival.outlives(np.array([0]), np.array([10])) == pytest.approx([0.75])
    biased = SurvivalTable(AgeBins.up_to(40), hazards(ended, 0 * censored, np.zeros(40), 0.0)[None])
    assert biased.outlives(np.array([0]), np.array([10])) == pytest.approx([0.0])


@given(answers, st.floats(0.1, 20), st.floats(0, 1))
def test_hazards_lie_between_the_prior_and_what_was_seen(
    answers: list[tuple[int, bool]], strength: float, prior: float
) -> None:
    ended, censored = counts(answers)
    seen = hazards(ended, censored, np.zeros(40), 0.0)
    at_risk = np.cumsum((ended + censored)[::-1])[::-1]
    blended = hazards(ended, censored, np.full(40, prior), strength)
    weight = at_risk / (at_risk + strength)
    assert blended == pytest.approx(weight * seen + (1 - weight) * prior)


hazard_rows = st.lists(
    st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.7, 1.0]), min_size=12, max_size=12),
    min_size=1,
    max_size=4,
)


@given(hazard_rows, st.data())
def test_quantiles_and_means_are_those_of_the_distribution(
    rows: list[list[float]], data: st.DataObject
) -> None:
    table = SurvivalTable(AgeBins.up_to(12), np.array(rows))
    row = data.draw(st.integers(0, len(rows) - 1))
    age = data.draw(st.integers(0, 11))
    limit = data.draw(st.integers(age + 1, 12))
    level = data.draw(st.floats(0.001, 0.999))
    chance = np.array([1.0, *np.cumprod(1 - np.array(rows[row]))])
    arguments = np.array([row]), np.array([age])
    found = int(table.quantile(*arguments, np.array([level]))[0])
    mean = float(table.mean(*arguments, np.array([limit]))[0])
    if chance[age] < 1e-6:
        assert (found, mean) == (age + 1, age + 1)
        return
    conditional = chance / chance[age]
    reached = [a for a in range(age + 1, 13) if conditional[a] <= 1 - level + 1e-6]
    tight = [a for a in range(age + 1, 13) if conditional[a] <= 1 - level - 1e-6]
    assert (min(reached) if reached else 12) <= found <= (min(tight) if tight else 12)
    assert mean == pytest.approx(max(age + 1, age + conditional[age:limit].sum()))


@pytest.mark.parametrize("longest", [1, 2, 255, 256, 257, 258, 2048, 131_072])
def test_bins_hold_every_length_once_and_are_narrow(longest: int) -> None:
    bins = AgeBins.up_to(longest)
    ages = np.arange(1, longest + 1)
    place = bins.of(ages)
    assert (np.diff(place) >= 0).all()
    assert place[0] == 0
    assert place[-1] == len(bins) - 1
    assert bins.last[-1] == longest
    assert (bins.last[place] >= ages).all()
    assert (bins.last[place] - ages <= ages // 128).all()
    assert (bins.survived(bins.last) == np.arange(1, len(bins) + 1)).all()
    assert len(bins) < 1600


def test_wide_bins_fall_linearly() -> None:
    bins = AgeBins.up_to(600)
    hazard = np.zeros((1, len(bins)))
    hazard[0, int(bins.of(np.array([600]))[0])] = 0.5
    table = SurvivalTable(bins, hazard)
    zero, begin = np.array([0]), int(bins.last[-2])
    middle = np.array([(begin + 600) // 2])
    share = (middle[0] - begin) / (600 - begin)
    assert table.outlives(zero, middle) == pytest.approx([1 - share / 2])
    assert table.mean(zero, zero, np.array([begin])) == pytest.approx([begin])
