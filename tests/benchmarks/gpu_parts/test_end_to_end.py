"""What happens when runs fail, take too long, or do other work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import shoal.costs
from benchmarks.gpu_parts import end_to_end
from benchmarks.gpu_parts.ceilings import Ceilings
from benchmarks.gpu_parts.cells import Cell
from benchmarks.gpu_parts.clock import Deadline, OutOfTimeError
from benchmarks.gpu_parts.contenders import OURS, POLICIES, descending, make_table, run_policy
from benchmarks.gpu_parts.end_to_end import Bench
from benchmarks.gpu_parts.floors import ceiling_costs, floor_of, private_reads
from benchmarks.gpu_parts.model import describe, random_model
from benchmarks.gpu_parts.records import Machine, Recorder
from benchmarks.models import LLAMA_8B, MODELS, make_config
from benchmarks.roofline import count_flops, count_work
from benchmarks.workloads import Workload

SMOKE = MODELS["smoke"]
CELL = Cell("n-best", policies=("shoal", "sorted-lru", "fcfs-lru"))
OTHER = Cell("wide-2k", policies=("shoal",))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    description = describe("smoke", SMOKE, torch.float32, torch.device("cpu"))
    return Bench(
        description,
        random_model(description),
        SMOKE,
        Ceilings(1e10, {1: 1e10}, 1e10),
        ample_blocks=64,
        recorder=Recorder(Machine(description.device, "CPU", smoke=True), tmp_path),
        scale=0.1,
        token_budget=64,
        most_times=2,
    )


def saved(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "gpu.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["part"] == "end-to-end"]


def patched(monkeypatch: pytest.MonkeyPatch, name: str, act: Any) -> None:
    """Let `act` change the outcome of real, timed runs under a policy."""

    def run(engine: Any, policy: Any, workload: Any, check: Any, budget: Any) -> Any:
        outcome = run_policy(engine, policy, workload, check, budget)
        timed = len(workload.prompts) > 1 and workload.name != "warm-up"
        return act(outcome) if policy == POLICIES[name] and timed else outcome

    monkeypatch.setattr(end_to_end, "run_policy", run)


def test_all_goes_well(bench: Bench, tmp_path: Path) -> None:
    bench.run([CELL, OTHER], Deadline(600))
    found = saved(tmp_path)
    assert [r["policy"] for r in found] == ["shoal", "sorted-lru", "fcfs-lru", "shoal"]
    assert all("error" not in record for record in found)
    assert {record["times"] for record in found} == {2}
    assert {record["kv_tokens"] for record in found} == {64 * 32}
    assert found[0]["requests"] == 2 * 2
    ratio = found[1]["seconds"] / found[0]["seconds"]
    assert found[1]["ratios"]["seconds"] == pytest.approx(ratio, rel=2e-3)


def test_a_failing_policy_leaves_the_others(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(outcome: Any) -> Any:
        raise RuntimeError("no kernel image")

    patched(monkeypatch, "sorted-lru", fail)
    bench.run([CELL, OTHER], Deadline(600))
    found = saved(tmp_path)
    assert [r.get("error") for r in found] == [None, "RuntimeError: no kernel image", None, None]


def test_a_run_that_takes_too_long_is_given_up(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(outcome: Any) -> Any:
        raise OutOfTimeError

    patched(monkeypatch, OURS, late)
    bench.run([CELL], Deadline(600))
    found = saved(tmp_path)
    assert "not finished after 40 s" in found[0]["error"]
    assert found[1]["ratios"] == {}
    assert found[1]["seconds"] > 0


def test_other_work_is_no_result(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorter(outcome: Any) -> Any:
        ids = [[choice[:-1] for choice in choices] for choices in outcome.token_ids]
        return replace(outcome, token_ids=ids)

    patched(monkeypatch, "fcfs-lru", shorter)
    bench.run([CELL], Deadline(600))
    assert "UnequalWorkError" in saved(tmp_path)[2]["error"]


def test_without_time_nothing_runs_and_all_is_recorded(bench: Bench, tmp_path: Path) -> None:
    bench.run([CELL, OTHER], Deadline(0))
    assert [r["skipped"] for r in saved(tmp_path)] == [list(CELL.policies), list(OTHER.policies)]


def test_the_iteration_asks_for_the_time(bench: Bench) -> None:
    engine = bench.any_engine()
    passed = Deadline(0)
    for policy in POLICIES.values():
        with pytest.raises(OutOfTimeError):
            run_policy(engine, policy, descending(SMOKE.vocabulary, 4), passed.check, None)


def test_reading_kv_per_request() -> None:
    """Each generated token reads its prompt and the tokens generated before it."""
    description = describe("smoke", SMOKE, torch.float32, torch.device("cpu"))
    costs = ceiling_costs(description, Ceilings(1e10, {1: 1e10}, 1e10))
    workload = Workload("two", [[1] * 10, [2] * 3], [4, 1], n=2)
    tokens = 2 * ((10 + 11 + 12 + 13) + 3)
    seconds = tokens * description.kv_bytes_per_token / 1e10
    assert private_reads(workload, costs) == pytest.approx(seconds)


def test_the_floor_is_the_larger_of_arithmetic_and_reading() -> None:
    description = describe("smoke", SMOKE, torch.float32, torch.device("cpu"))
    workload = descending(SMOKE.vocabulary, 8)
    table, floors = make_table(workload), []
    for copy, products in ((1e15, 1e6), (1e3, 1e15)):
        costs = ceiling_costs(description, Ceilings(copy, {1: products}, 1.0))
        floors.append(floor_of(workload, table, SMOKE, shoal.costs.Machine(costs, 64, 64 * 32)))
    flops = count_flops(count_work(workload), SMOKE).total
    assert floors[0].seconds == floors[0].compute == pytest.approx(flops / 1e6)
    longest = max(workload.outputs)
    weights = 4 * (SMOKE.linear_parameters + SMOKE.hidden * SMOKE.vocabulary)
    assert floors[1].seconds == floors[1].memory >= longest * weights / 1e3


def test_the_warm_up_has_all_numbers_of_rows(bench: Bench) -> None:
    workload = descending(SMOKE.vocabulary, 64)
    assert len(workload.prompts) == 64
    running = [sum(output > i for output in workload.outputs) for i in range(98)]
    assert running[0] == 64
    assert set(running) == set(range(65))


def test_llama_8b_is_llama_8b() -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(make_config(LLAMA_8B))
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248
    assert LLAMA_8B.kv_bytes_per_token == 131_072
    assert describe("l", SMOKE, torch.float32, torch.device("cpu")).kv_bytes_per_token == 512
