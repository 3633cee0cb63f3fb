"""The token budget and the rates: measured, remembered."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shoal import LLM
from shoal.config import EngineOptions, Quantization
from shoal.costs import Rates
from shoal.engine.engine import Engine
from shoal.machine import calibrate
from shoal.machine.calibrate import (
    CANDIDATES,
    MOST_SECONDS,
    WORTH,
    choose,
)
from shoal.machine.calibration_cache import (
    DEFAULT_TOKEN_BUDGET,
    VERSION,
    Calibration,
    cache_path,
    remember,
    remembered,
)
from shoal.machine.model_costs import default_costs, model_costs
from shoal.model.description import ModelDescription
from tests.helpers.models import save_model

pytestmark = pytest.mark.long


def test_takes_the_budget_after_which_nothing_is_gained() -> None:
    seconds = {512: 1.0, 1024: 1.5, 2048: 2.6, 4096: 5.2}
    measured: list[int] = []

    def measure(tokens: int) -> float:
        measured.append(tokens)
        return seconds[tokens] / 100

    assert choose(CANDIDATES, measure) == 2048
    assert measured == [512, 1024, 2048, 4096]


def test_on_a_cpu_the_largest_budget_that_is_not_clearly_slower_is_taken() -> None:
    worth = WORTH["cpu"]
    assert choose(CANDIDATES, lambda tokens: tokens / 1e5, worth) == CANDIDATES[-1]
    disturbed = {512: 0.0512, 1024: 0.12, 2048: 0.215, 4096: 0.4096, 8192: 1.0}
    assert choose(CANDIDATES, disturbed.__getitem__, worth) == 4096
    # 6 % slower with each step is not within a tenth of the fastest after two.
    slower = {tokens: tokens / 1e5 * 1.06**i for i, tokens in enumerate(CANDIDATES)}
    assert choose(CANDIDATES, slower.__getitem__, worth) == 1024
    memory = {512: 0.01, 1024: 0.02, 2048: float("inf"), 4096: float("inf"), 8192: float("inf")}
    assert choose(CANDIDATES, memory.__getitem__, worth) == 1024


def test_slow_models_are_not_measured_for_long() -> None:
    spent = 0.0

    def measure(tokens: int) -> float:
        nonlocal spent
        took = float((tokens / 1000) ** 0.9)
        spent += 2 * took
        return took

    budget = choose(CANDIDATES, measure)
    assert budget == 2048
    assert spent < MOST_SECONDS


def test_a_model_too_slow_for_any_second_try_gets_the_first_budget() -> None:
    assert choose(CANDIDATES, lambda tokens: 60.0) == CANDIDATES[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_is_measured_once_and_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_model(tmp_path, "llama"))
    description = ModelDescription.load(folder, EngineOptions())
    assert remembered(description) is None
    first = LLM(folder, dtype="float32", kv_memory="16MiB")
    assert first.max_num_batched_tokens in CANDIDATES
    assert cache_path(description).is_relative_to(cache)
    known = remembered(description)
    assert known is not None
    assert known.token_budget == first.max_num_batched_tokens
    monkeypatch.setattr(calibrate, "choose", pytest.fail)
    assert (
        LLM(folder, dtype="float32", kv_memory="16MiB").max_num_batched_tokens
        == first.max_num_batched_tokens
    )


def test_a_cpu_is_asked_for_its_own_worth(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def note(_candidates: object, seconds: Callable[[int], float], worth: float) -> int:
        asked.append(worth)
        seconds(512)
        return 512

    monkeypatch.setattr(calibrate, "choose", note)
    folder = str(save_model(tmp_path, "llama"))
    assert (
        LLM(folder, dtype="float32", kv_memory="16MiB", device="cpu").max_num_batched_tokens == 512
    )
    assert asked == [WORTH["cpu"]]


def test_depends_on_the_model_and_its_formats(tmp_path: Path, cache: Path) -> None:
    folder = str(save_model(tmp_path / "a", "llama"))
    other = str(save_model(tmp_path / "b", "llama", intermediate_size=64))
    descriptions = [
        ModelDescription.load(model, EngineOptions(dtype=dtype))
        for model in (folder, other)
        for dtype in ("float32", "bfloat16")
    ]
    descriptions += [replace(each, quantization=Quantization.int8) for each in descriptions]
    assert len({cache_path(each) for each in descriptions}) == 8


RATES = Rates(
    flops_per_second=1e11,
    bytes_per_second=1e10,
    iteration_seconds=1e-3,
    segment_seconds=1e-5,
    use_seconds=1e-6,
)
SAVED = {"version": VERSION, "token_budget": 512, "rates": asdict(RATES)}


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"token_budget": 512}',
        json.dumps(SAVED | {"version": VERSION - 1}),
        json.dumps(SAVED | {"token_budget": 0}),
        json.dumps(SAVED | {"token_budget": "512"}),
        json.dumps(SAVED | {"rates": {"flops_per_second": 1e11}}),
        json.dumps(SAVED | {"rates": asdict(RATES) | {"bytes_per_second": 0.0}}),
        json.dumps(SAVED | {"rates": asdict(RATES) | {"use_seconds": float("nan")}}),
        json.dumps(SAVED | {"rates": asdict(RATES) | {"segment_seconds": -1e-6}}),
    ],
)
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, cache: Path, damage: str) -> None:
    folder = str(save_model(tmp_path, "llama"))
    description = ModelDescription.load(folder, EngineOptions())
    path = cache_path(description)
    path.parent.mkdir(parents=True)
    path.write_text(damage)
    assert LLM(folder, dtype="float32", kv_memory="16MiB").max_num_batched_tokens in CANDIDATES
    assert path.read_text() != damage
    assert remembered(description) is not None


def test_what_was_measured_comes_back(tmp_path: Path, cache: Path) -> None:
    description = ModelDescription.load(str(save_model(tmp_path, "llama")), EngineOptions())
    remember(description, Calibration(1024, RATES))
    assert remembered(description) == Calibration(1024, RATES)


def test_runs_and_plans_use_what_was_measured(tmp_path: Path, cache: Path) -> None:
    folder = str(save_model(tmp_path, "llama"))
    options = EngineOptions(dtype="float32", kv_memory="1MiB", token_budget=64)
    description = ModelDescription.load(folder, options)
    assert Engine(description, options).machine.costs == default_costs(description)
    remember(description, Calibration(1024, RATES))
    assert Engine(description, options).machine.costs == model_costs(description, RATES)


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = str(save_model(tmp_path, "llama"))
    assert LLM(folder, dtype="float32", kv_memory="16MiB").max_num_batched_tokens in CANDIDATES


@pytest.mark.long
def test_small_pools_and_given_budgets_are_not_measured(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "choose", pytest.fail)
    folder = str(save_model(tmp_path, "llama"))
    small = LLM(folder, dtype="float32", kv_memory="1MiB")
    assert small.max_num_batched_tokens == DEFAULT_TOKEN_BUDGET
    assert LLM(folder, dtype="float32", max_num_batched_tokens=33).max_num_batched_tokens == 33
