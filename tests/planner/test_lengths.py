"""The length model: what it knows before, what it learns from whom, and how fast it answers."""

from __future__ import annotations

import time

import numpy as np
import pytest

from shoal.planner import LengthModel, make_plan
from shoal.planner.likeness import LARGE, likeness
from shoal.types import Int64Array, RequestParams, RequestTable

LIMIT = 400


def table_of(
    templates: Int64Array, params: list[RequestParams], params_index: Int64Array, own: int = 5
) -> RequestTable:
    """One request per entry: 200 tokens of its template, then its own; limit or 256 expected."""
    count = len(templates)
    limits = np.array([p.token_limit or LIMIT for p in params])[params_index]
    stated = np.array([p.token_limit is not None for p in params])[params_index]
    tokens = np.repeat(1_000_000 + templates[:, None], 200 + own, axis=1)
    tokens[:, 200:] = np.arange(count)[:, None]
    return RequestTable(
        tokens=tokens.astype(np.int32).ravel(),
        offsets=np.arange(count + 1, dtype=np.int64) * (200 + own),
        params=params,
        params_index=params_index.astype(np.int32),
        max_new_tokens=limits.astype(np.int32),
        expected_new_tokens=np.where(stated, limits, np.minimum(limits, 256)).astype(np.int32),
        seeds=np.zeros(count, dtype=np.int64),
        has_seed=np.zeros(count, dtype=np.bool_),
        line=np.arange(count, dtype=np.int64),
    )


def model_of(
    templates: Int64Array,
    params: list[RequestParams] | None = None,
    params_index: Int64Array | None = None,
) -> LengthModel:
    params = params or [RequestParams(max_tokens=LIMIT)]
    index = np.zeros(len(templates), dtype=np.int64) if params_index is None else params_index
    table = table_of(templates, params, index)
    return LengthModel(make_plan(table), table)


def quantiles(model: LengthModel, request: int, age: int = 0) -> list[int]:
    levels = np.array([0.1, 0.5, 0.9])
    requests = np.full(3, request)
    return model.quantile(requests, np.full(3, age), levels).tolist()


def learn(model: LengthModel, requests: Int64Array, lengths: Int64Array) -> None:
    model.observe(requests, lengths)
    none = np.zeros(len(requests), dtype=np.int64)
    model.estimate(requests, none)


def test_a_stated_limit_is_expected_and_a_mere_bound_is_not() -> None:
    params = [RequestParams(max_tokens=LIMIT), RequestParams()]
    model = model_of(np.zeros(400, dtype=np.int64), params, np.arange(400) % 2)
    model.estimate(np.array([0, 1]), np.zeros(2, dtype=np.int64))
    assert quantiles(model, 0) == [LIMIT] * 3
    low, middle, high = quantiles(model, 1)
    assert low < 40
    assert middle == pytest.approx(256 * np.log(2), abs=4)
    assert high == LIMIT


def test_templates_are_told_apart_and_strangers_take_the_jobs() -> None:
    templates = np.concatenate([np.zeros(300), np.ones(300), np.arange(2, 12)]).astype(np.int64)
    random = np.random.default_rng(1)
    model = model_of(templates)
    short, long = random.integers(20, 40, 200), random.integers(200, 300, 200)
    learn(model, np.append(np.arange(200), np.arange(300, 500)), np.append(short, long))
    assert quantiles(model, 250)[1] == pytest.approx(30, abs=3)
    assert quantiles(model, 550)[1] == pytest.approx(250, abs=10)
    low, middle, high = quantiles(model, 605)
    assert (low < 40, 35 < middle < 210, high > 230) == (True, True, True)
    assert model.expected(np.array([250, 550])) == pytest.approx([30, 250], rel=0.15)


def test_what_has_been_generated_conditions() -> None:
    model = model_of(np.zeros(500, dtype=np.int64))
    half = np.arange(400) % 2
    learn(model, np.arange(400), np.where(half == 0, 20, 200))
    assert quantiles(model, 450)[0] == 20
    assert quantiles(model, 450, age=20) == [200, 200, 200]
    assert quantiles(model, 450, age=399) == [LIMIT] * 3
    assert model.expected(np.array([450])) == pytest.approx([110], rel=0.05)


def test_answers_still_under_way_are_not_forgotten() -> None:
    """Of 400 that began together, those that ended are short; the rest is known to be longer."""
    requests = np.arange(400)
    lengths = np.random.default_rng(2).integers(1, 101, 400)
    model = model_of(np.zeros(500, dtype=np.int64))
    ended = lengths <= 50
    model.observe(requests[ended], lengths[ended])
    model.estimate(requests[~ended], np.full(int((~ended).sum()), 50))
    assert quantiles(model, 450)[0] == pytest.approx(10, abs=3)
    assert quantiles(model, 450)[1] >= 45
    model.estimate(np.array([450]), np.array([0]))
    assert quantiles(model, 450)[1] < 35, "which is what forgetting them looks like"


def test_answers_cut_at_their_limit_say_that_longer_ones_exist() -> None:
    params = [RequestParams(max_tokens=50), RequestParams(max_tokens=LIMIT)]
    index = np.repeat([0, 1], [300, 5])
    model = model_of(np.zeros(305, dtype=np.int64), params, index)
    lengths = np.where(np.arange(300) % 4 == 0, 20, 50)
    learn(model, np.arange(300), lengths)
    assert quantiles(model, 0) == [20, 50, 50]
    found = model.quantile(np.array([302]), np.array([0]), np.array([0.3]))
    assert found[0] > 50, "three in four were cut at 50, they did not end there"


def test_fixed_lengths_are_known_and_teach_nothing() -> None:
    params = [RequestParams(max_tokens=50, ignore_eos=True), RequestParams(max_tokens=LIMIT)]
    model = model_of(np.zeros(300, dtype=np.int64), params, np.repeat([0, 1], 150))
    learn(model, np.arange(100), np.full(100, 50))
    assert model.num_ended == 0
    assert quantiles(model, 120) == [50] * 3
    assert quantiles(model, 200) == [LIMIT] * 3
    assert model.expected(np.array([120, 200])).tolist() == [50.0, LIMIT]


def test_estimates_become_stale_with_what_ends() -> None:
    model = model_of(np.zeros(3000, dtype=np.int64))
    none = np.zeros(0, dtype=np.int64)
    assert not model.stale
    learn(model, np.arange(1600), np.full(1600, 30))
    model.observe(np.arange(1600, 1650), np.full(50, 30))
    assert not model.stale
    for _ in range(32):
        model.observe(none, none)
    assert model.stale
    model.estimate(none, none)
    model.observe(np.arange(1700, 1900), np.full(200, 30))
    assert model.stale


def test_classes_and_units() -> None:
    """Two large templates, one with two kinds of parameters of which one is rare; the rest."""
    templates = np.concatenate([np.zeros(2 * LARGE), np.ones(LARGE), 2 + np.arange(90) // 10])
    params = [RequestParams(max_tokens=n) for n in (10, 20)]
    index = np.zeros(len(templates), dtype=np.int64)
    index[:5] = 1
    table = table_of(templates.astype(np.int64), params, index)
    plan = make_plan(table)
    alike = likeness(plan, table)
    of = np.empty(len(table), dtype=np.int64)
    of[plan.sequence_request] = alike.of
    assert set(of[:5]) == {0}, "too few of their parameters: the job"
    assert len({*of[5 : 2 * LARGE]}) == len({*of[2 * LARGE : 3 * LARGE]}) == 1
    assert len({of[5], of[250], of[350], 0}) == 4
    assert set(of[300:]) == {of[350]}
    assert alike.parent[of[350]] == 0
    assert alike.parent[of[5]] == alike.parent[of[250]] == of[350]
    unit = np.empty(len(table), dtype=np.int64)
    unit[plan.sequence_request] = alike.unit
    assert len(set(unit[: 3 * LARGE])) == 3 * LARGE, "below a template each request by itself"
    assert len(set(unit[300:])) == 9, "small groups stay whole"


def test_a_thousand_rows_take_a_millisecond() -> None:
    """Generous: 0.2 ms on the machine it was written on."""
    model = model_of(np.arange(2000) % 10)
    learn(model, np.arange(1000), np.random.default_rng(3).integers(1, LIMIT, 1000))
    requests, ages = np.arange(1000), np.arange(1000) % 300
    level = np.linspace(0.01, 0.99, 1000)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        model.quantile(requests, ages, level)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1e-3
