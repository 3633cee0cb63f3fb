"""Scored prompts of a forest against transformers' log-softmax, whoever shares with whom."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from shoal.engine.engine import Run
from tests.helpers.ahead import run_ahead
from tests.helpers.models import oracle, save_model

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module", params=[False, True], ids=["in step", "ahead"], autouse=True)
def ahead(request: pytest.FixtureRequest) -> Iterator[bool]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            run_ahead(patch)
        yield request.param


@pytest.fixture(scope="module")
def llms(folder: Path, ahead: bool) -> dict[str, LLM]:
    """With ample memory, and with so little that sequences are preempted and segments evicted."""
    options: dict[str, Any] = {"dtype": "float32", "max_num_batched_tokens": 64}
    return {
        "ample": LLM(str(folder), kv_memory="4MiB", **options),
        "tight": LLM(str(folder), kv_memory="64KiB", **options | {"max_num_batched_tokens": 24}),
    }


@cache
def log_softmax(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """What transformers says of the tokens after each of these, float32 [T, vocabulary]."""
    with torch.inference_mode():
        return torch.log_softmax(oracle(folder)(torch.tensor([ids])).logits[0], dim=-1)


def check(out: RequestOutput, prompt: list[int], params: SamplingParams, folder: Path) -> None:
    assert out.error is None
    assert [len(choice.token_ids) == 0 for choice in out.outputs] == [params.max_tokens == 0] * (
        params.n
    )
    num = params.prompt_logprobs
    assert (out.prompt_logprobs is None) == (num is None)
    if out.prompt_logprobs is None or num is None:
        return
    rows, start = log_softmax(folder, tuple(prompt)), max(1, params.prompt_logprob_start or 0)
    assert [entry is None for entry in out.prompt_logprobs] == [
        position < start for position in range(len(prompt))
    ]
    for position, entries in enumerate(out.prompt_logprobs):
        if entries is None:
            continue
        row, token = rows[position - 1], prompt[position]
        assert next(iter(entries)) == token
        assert entries[token].logprob == pytest.approx(float(row[token]), abs=1e-4)
        near = (row - row[token]).abs() < 1e-4
        rank = int((row > row[token]).sum()) + 1
        assert entries[token].rank is not None
        assert rank - int(near.sum()) < entries[token].rank < rank + int(near.sum())
        best = torch.sort(row, descending=True).values[:num].tolist()
        listed = [entry.logprob for entry in entries.values()]
        if token not in row.topk(max(num, 1)).indices[:num].tolist():
            listed = listed[1:]
        assert sorted(listed, reverse=True) == pytest.approx(best, abs=1e-4)


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[list[int], SamplingParams]]:
    """A forest of prompts, of which some are scored, some generate, and some do both."""
    stem = st.lists(st.integers(2, 5), min_size=1, max_size=40)
    stems = draw(st.lists(stem, min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(2, 9))):
        prompt = draw(st.sampled_from(stems)) + draw(st.sampled_from([[], *stems]))
        prompt = [*prompt, *draw(st.lists(st.integers(2, 5), max_size=3))]
        values: dict[str, Any] = {
            "max_tokens": draw(st.sampled_from([0, 0, 1, 6])),
            "n": draw(st.sampled_from([1, 1, 2])),
            "temperature": 0.0,
            "ignore_eos": True,
        }
        if draw(st.sampled_from([True, True, False])):
            values["prompt_logprobs"] = draw(st.sampled_from([0, 1, 3, 20]))
            values["prompt_logprob_start"] = draw(
                st.sampled_from([None, 0, 1, len(prompt) // 2, len(prompt) - 1, len(prompt)])
            )
        found.append((prompt, SamplingParams(**values)))
    return found


@pytest.mark.long
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(requests(), st.sampled_from(["ample", "tight"]))
def test_any_forest_is_scored_as_transformers_does(
    llms: dict[str, LLM], folder: Path, asked: list[tuple[list[int], SamplingParams]], memory: str
) -> None:
    llm = llms[memory]
    outputs = llm.generate([p for p, _ in asked], [each for _, each in asked], use_tqdm=False)
    for out, (prompt, params) in zip(outputs, asked, strict=True):
        check(out, prompt, params, folder)


SUBJECT = [(7 * i) % 200 + 2 for i in range(60)]
QUESTIONS = [[(11 * i + q) % 200 + 2 for i in range(20)] for q in range(3)]
CHOICES = [[*SUBJECT, *question, 30 + c] for question in QUESTIONS for c in range(4)]


def test_choices_of_one_token_share_all_they_compute(llms: dict[str, LLM], folder: Path) -> None:
    llm = llms["ample"]
    params = SamplingParams(max_tokens=0, prompt_logprobs=1, prompt_logprob_start=80)
    for out in (outputs := llm.generate(CHOICES, params, use_tqdm=False)):
        check(out, CHOICES[outputs.index(out)], params, folder)
    assert llm.last_run is not None
    tokens = llm.last_run.tokens
    assert (tokens.prompt, tokens.prompt_computed) == (12 * 81, 60 + 3 * 20)
    assert tokens.generated == tokens.recomputed == 0


def test_a_shared_prefix_is_scored_once(llms: dict[str, LLM], folder: Path, ahead: bool) -> None:
    """Beside requests that are not scored, and one that has to fit a grammar."""
    params = [SamplingParams(max_tokens=2, prompt_logprobs=2, temperature=0.0)] * 8
    params += [SamplingParams(max_tokens=5, temperature=0.0)] * 3
    choice = StructuredOutputsParams(choice=["yes", "no"])
    params += [SamplingParams(max_tokens=5, structured_outputs=choice, prompt_logprobs=0)]
    llm = llms["ample"]
    rows: list[int] = []
    accept = Run._accept

    def counting(self: Run, launched: Any, result: Any) -> None:
        rows.extend(len(part.rows) for part in result.scores)
        accept(self, launched, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_accept", counting)
        outputs = llm.generate(CHOICES, params, use_tqdm=False)
    for out, prompt, each in zip(outputs, CHOICES, params, strict=True):
        check(out, prompt, each, folder)
    assert outputs[-1].outputs[0].text in ("yes", "no")
    # No row twice, and not the last of a prompt, which says its answer's first token.
    assert llm.last_run is not None
    assert 60 + 3 * 20 <= sum(rows) <= llm.last_run.tokens.prompt_computed - 12 <= 60 + 12 * 20


def test_nothing_is_asked(llms: dict[str, LLM]) -> None:
    outputs = llms["tight"].generate(CHOICES, SamplingParams(max_tokens=0), use_tqdm=False)
    assert [(out.outputs[0].text, out.outputs[0].finish_reason) for out in outputs] == [
        ("", "length")
    ] * len(CHOICES)
    run = llms["tight"].last_run
    assert run is not None
    assert run.tokens.prompt_computed == 0


def test_logits_that_are_not_numbers_fail_those_that_are_scored(folder: Path, ahead: bool) -> None:
    llm = LLM(str(folder), dtype="float32", kv_memory="4MiB")

    def spoil(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, float("nan"))

    handle = llm._engine._model.module.lm_head.register_forward_hook(spoil)
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    outputs = llm.generate([*CHOICES[:2], [5]], params, use_tqdm=False)
    handle.remove()
    errors = [out.error and out.error.status_code for out in outputs]
    assert errors == [500, 500, None]
