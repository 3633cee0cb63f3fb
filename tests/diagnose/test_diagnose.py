from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.workloads import SPECS, make_workload
from shoal.diagnose import Diagnoses, FindingKind, diagnose
from shoal.diagnose.sample import take
from shoal.planner import build_forest, forest_of, make_plan
from shoal.types import RequestParams
from tests.helpers.diagnoses import as_job, computed, diagnosed, only, prose
from tests.helpers.planner_jobs import Job, jobs

ROOT = Path(__file__).parents[2]


def test_what_costs_little_of_the_job_is_not_told() -> None:
    rng = random.Random(0)
    rule = prose(rng, 20)
    few = [f"{rng.randrange(10**6):06}\n{rule}" for _ in range(10)]
    assert diagnosed(as_job(few)).prompts
    assert diagnosed(as_job(few + [prose(rng, 60) for _ in range(300)])).prompts == []


@pytest.mark.long
def test_a_part_keeps_families_together() -> None:
    rng = np.random.default_rng(0)
    families, members = 1000, 20
    shared = rng.integers(100, 1000, (families, 60))
    family = rng.permutation(np.repeat(np.arange(families), members))
    ids = rng.integers(0, 10, (len(family), 6))
    table = Job(np.concatenate([ids, shared[family]], axis=1).tolist()).table
    by_rank = np.argsort(build_forest(table.tokens, table.offsets, table.choices).rank)
    part = take(table, by_rank, requests=640, tokens=1 << 30)
    assert 600 <= len(part) <= 640
    together = np.bincount(family[part.request], minlength=families)
    assert together[together >= members // 2].sum() > len(part) / 2


@pytest.mark.parametrize("between", ["\n", "\n\n"])
@pytest.mark.parametrize("label", ["A", "positive, and more words than a line needs"])
def test_shuffled_examples_are_found(between: str, label: str) -> None:
    rng = random.Random(0)
    examples = [f"Input: {prose(rng, 12)}\nLabel: {label}" for _ in range(4)]
    head = prose(rng, 20)
    orders = [rng.sample(examples, 4) for _ in range(80)]
    tails = [f"{between}Input: {prose(rng, 4)}\nLabel:" for _ in range(80)]

    def texts(chosen: list[list[str]]) -> list[str]:
        pairs = zip(chosen, tails, strict=True)
        return [between.join([head, *one]) + tail for one, tail in pairs]

    finding = only(texts(orders), FindingKind.shuffled_chunks)
    assert finding.requests == 80
    assert finding.variants == len({tuple(order) for order in orders})
    assert finding.cost_tokens == computed(texts(orders)) - computed(texts([examples] * 80))
    assert finding.offset >= len(head)


def test_a_short_question_is_no_part_of_the_last_example() -> None:
    rng = random.Random(0)
    examples = [f"Input: {prose(rng, 12)}\nL: {label}" for label in "ABCD"]
    head = prose(rng, 20)
    orders = [rng.sample(examples, 4) for _ in range(60)]
    shuffled = ["\n".join([head, *order, f"Q {i:02}"]) for i, order in enumerate(orders)]
    fixed = ["\n".join([head, *examples, f"Q {i:02}"]) for i in range(60)]
    finding = only(shuffled, FindingKind.shuffled_chunks)
    assert finding.requests == 60
    assert finding.cost_tokens == computed(shuffled) - computed(fixed)


def test_examples_of_different_sets_are_not_called_shuffled() -> None:
    rng = random.Random(0)
    texts = ["\n".join(prose(rng, 12) for _ in range(4)) + f"\nInput: {i}" for i in range(40)]
    assert diagnosed(as_job(texts)).prompts == []


@pytest.mark.parametrize("name", SPECS)
def test_the_benchmark_workloads_are_clean(name: str) -> None:
    job = Job(make_workload(name, vocabulary=1000, scale=0.25).prompts)
    assert diagnosed(job).prompts == []


def test_the_bundled_example_is_clean() -> None:
    tokenizer = Tokenizer.from_file(str(ROOT / "shoal/models/shoal-tiny/tokenizer.json"))
    prompts = []
    for line in (ROOT / "examples/tickets.jsonl").read_text().splitlines():
        messages = json.loads(line)["body"]["messages"]
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        prompts.append(tokenizer.encode("".join(turns) + "<|im_start|>assistant\n").ids)
    table = Job(prompts).table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    found = diagnose(
        table,
        make_plan(table, forest=forest),
        forest,
        lambda token: tokenizer.decode([token], skip_special_tokens=False).encode(),
    )
    assert found.prompts == []


@pytest.mark.parametrize("shape", ["random", "shared", "two levels", "questions", "equal", "few"])
def test_ordinary_jobs_are_clean(shape: str) -> None:
    rng = random.Random(shape)
    system = prose(rng, 50)
    texts = {
        "random": [prose(rng, 40) for _ in range(60)],
        "shared": [f"{system}\n{prose(rng, 20)}\nAnswer:" for _ in range(60)],
        "two levels": [
            f"{system}\n{prose(random.Random(i % 5), 40)}\n{prose(rng, 9)}" for i in range(60)
        ],
        "questions": [f"Question: {prose(rng, 15)}?\nAnswer:" for _ in range(60)],
        "equal": [system] * 60,
        "few": [f"{i}{system}" for i in range(5)],
    }[shape]
    assert diagnosed(as_job(texts)).prompts == []


def test_the_order_of_the_input_changes_no_figure() -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    texts = [f"Id {rng.randrange(10**6):06}\n{rule}\n{prose(rng, 4)}" for _ in range(50)]
    one = only(texts, FindingKind.varying_field)
    two = only(rng.sample(texts, 50), FindingKind.varying_field)
    assert (one.offset, one.cost_tokens, one.variants) == (
        two.offset,
        two.cost_tokens,
        two.variants,
    )


def test_choices_count_as_sequences() -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    texts = [f"{rng.randrange(10**6):06}\n{rule}\n{prose(rng, 4)}" for _ in range(50)]
    single = only(texts, FindingKind.varying_field)
    several = diagnosed(replace(as_job(texts), choices=[3] * 50)).prompts[0]
    assert several.cost_tokens == single.cost_tokens, "a request's choices share all of it anyhow"


@pytest.mark.parametrize("limit", [0, 16])
def test_scored_requests_are_looked_at_like_others(limit: int) -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    table = as_job([f"{rng.randrange(10**6):06}\n{rule}" for _ in range(50)]).table

    def found(params: RequestParams) -> Diagnoses:
        asked = replace(table, params=[params])
        forest = forest_of(asked)
        plan = make_plan(asked, forest=forest)
        return diagnose(asked, plan, forest, lambda t: chr(t).encode())

    (finding,) = found(RequestParams()).prompts
    (scored,) = found(RequestParams(echo=True, logprobs=0, max_tokens=limit)).prompts
    assert scored.kind is finding.kind is FindingKind.varying_field
    # A last token that is only a target costs nothing, wherever the field stands.
    fewer = 49 if limit == 0 else 0
    assert scored.cost_tokens == finding.cost_tokens - fewer
    assert found(RequestParams(max_tokens=0)).prompts == []


@pytest.mark.long
def test_a_large_job_is_judged_by_a_part_of_it() -> None:
    rng = np.random.default_rng(0)
    number, size, families = 34_000, 80, 340
    prompts = rng.integers(100, 1000, (number, size), dtype=np.int32)
    prompts[:, :6] = rng.integers(0, 10, (number, 6))
    shared = rng.integers(100, 1000, (families, 60), dtype=np.int32)
    prompts[:, 6:66] = shared[rng.integers(0, families, number)]

    def saved(prompts: np.ndarray) -> int:
        forest = build_forest(prompts.reshape(-1), offsets, choices)
        return int(((forest.end - forest.start) * (forest.users - 1)).sum())

    offsets, choices = np.arange(number + 1) * size, np.ones(number, dtype=np.int32)
    base = Job([[1]] * number).table
    table = replace(base, tokens=prompts.reshape(-1), offsets=offsets)
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, forest=forest)
    (finding,) = diagnose(table, plan, forest, lambda t: b" %d" % t).prompts
    true = saved(np.concatenate([prompts[:, 6:], prompts[:, :6]], axis=1)) - saved(prompts)
    assert not finding.exact
    assert 0.8 * true < finding.cost_tokens < 1.05 * true
    assert finding.requests == pytest.approx(number, rel=0.05)


@settings(deadline=None)
@given(jobs(max_requests=20), st.integers(2, 10), st.integers(1, 400))
def test_a_part_of_the_requests_is_a_part(job: Job, requests: int, tokens: int) -> None:
    table = job.table
    part = take(table, np.arange(len(table)), requests=requests, tokens=tokens)
    assert len(part) <= max(requests, 2)
    assert (np.diff(part.request) > 0).all()
    for i, request in enumerate(part.request):
        tokens_of = part.tokens[part.offsets[i] : part.offsets[i + 1]]
        assert tokens_of.tolist() == job.prompts[request]
