"""Parts of products of cases that are quick enough for each run; the slow tests run the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, product
from math import comb
from random import Random
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
Case = tuple[int, ...]
"""The index of a value on each axis."""

WHOLE = pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
"""A test that takes some of its settings in turn (see `in_turn`), or in a slow test all of them."""


def covering(cases: Iterable[Case], strength: int) -> set[Case]:
    """Some of the cases, in which values of so many axes meet as in all of them.

    Greedy, and the same each time.
    """
    cases = list(cases)
    axes = len(cases[0])
    strength = min(strength, axes)
    places = list(combinations(range(axes), strength))
    Random(0).shuffle(cases)
    met: set[tuple[Case, Case]] = set()
    kept = set()
    for least in range(comb(axes, strength), 0, -1):
        for case in cases:
            new = {(place, tuple(case[axis] for axis in place)) for place in places} - met
            if len(new) >= least:
                met |= new
                kept.add(case)
    return kept


def together(
    *axes: Sequence[Any], strength: int, allowed: Callable[..., bool] = lambda *_: True
) -> list[Any]:
    """A whole product, for `pytest.mark.parametrize`; all but a covering part of it is slow.

    Args:
        axes: the values of each parameter.
        strength: any values of so many parameters meet in a test that is not slow.
        allowed: which cases there are.
    """

    def values(case: Case) -> list[Any]:
        return [axis[index] for axis, index in zip(axes, case, strict=True)]

    cases = [
        case for case in product(*(range(len(axis)) for axis in axes)) if allowed(*values(case))
    ]
    kept = covering(cases, strength)
    slow = pytest.mark.slow
    return [pytest.param(*values(case), marks=() if case in kept else slow) for case in cases]


def in_turn(values: Sequence[T], number: int, count: int = 2) -> list[T]:
    """So many of the values, other ones for each number; a few numbers together take them all."""
    return [values[(number * count + i) % len(values)] for i in range(count)]
