"""The baselines through the real executor: greedy tokens are transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_parts.contenders import POLICIES, make_table, run_policy
from benchmarks.policies.run import Limits, run_lru, unshared_plan
from benchmarks.workloads import Workload
from shoal.config import EngineOptions
from shoal.engine.engine import Engine
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import forest_of_prompts, greedy, save_model

NEW_TOKENS = 9


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    options = EngineOptions(dtype="float32", device="cpu", kv_memory="1MiB", token_budget=48)
    return Engine(ModelDescription.load(str(folder), options), options)


def expected(folder: Path, workload: Workload, eos: tuple[int, ...]) -> list[list[int]]:
    found = [greedy(folder, p, NEW_TOKENS) for p in workload.prompts]
    return [ids[: next((i for i, t in enumerate(ids) if t in eos), 99) + 1] for ids in found]


@pytest.mark.parametrize(("budget", "requests", "spare"), [(48, 256, 100), (16, 4, 1), (7, 2, 0)])
def test_greedy_tokens(
    folder: Path, engine: Engine, budget: int, requests: int, spare: int
) -> None:
    prompts = forest_of_prompts(3)
    workload = Workload("forest", prompts, [NEW_TOKENS] * len(prompts))
    table = make_table(workload)
    plan = unshared_plan(table)
    needed = -(-(max(map(len, prompts)) + NEW_TOKENS) // BLOCK_SIZE)
    limits = Limits(budget, requests, min(needed + spare, engine.machine.num_blocks), BLOCK_SIZE)
    eos = engine.description.eos_token_ids
    run = run_lru(table, plan, engine.executor(table, plan), limits, eos)
    assert run.token_ids == expected(folder, workload, eos)


def test_all_policies_give_the_same_tokens(engine: Engine) -> None:
    prompts = forest_of_prompts(4)
    workload = Workload("forest", prompts, [NEW_TOKENS] * len(prompts))
    found = {}
    for name, policy in POLICIES.items():
        ordered = workload.sorted() if policy.sorts else workload
        outcome = run_policy(engine, policy, ordered, lambda: None, 16)
        answers = zip(ordered.prompts, outcome.token_ids, strict=True)
        found[name] = {tuple(prompt): choices for prompt, choices in answers}
        assert outcome.seconds > 0
        assert 0 <= outcome.hit_rate < 1
        assert (outcome.execute_seconds is None) == (policy.sharing is not None)
    assert all(answers == found["shoal"] for answers in found.values())


def test_choices_of_a_prompt(engine: Engine) -> None:
    workload = Workload("choices", [[5, 6, 7], [8, 9]], [4, 4], n=3, temperature=1.0)
    for policy in POLICIES.values():
        outcome = run_policy(engine, policy, workload, lambda: None, None)
        assert [[len(ids) for ids in choices] for choices in outcome.token_ids] == [[4] * 3] * 2
