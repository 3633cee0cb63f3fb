"""The loop: failures in the model, choices, prompt logprobs, seeds; on a tiny random model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal import LLM, SamplingParams
from shoal.errors import InvalidRequestError, ModelFailedError, OptionError
from tests.helpers.ahead import run_ahead
from tests.helpers.models import forest_of_prompts, greedy, save_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


def make_llm(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), **{"dtype": "float32", "kv_memory": "4MiB", **options})


@pytest.fixture(scope="module", params=[False, True], ids=["in step", "ahead"], autouse=True)
def ahead(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Every test here runs with an executor that runs ahead, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            run_ahead(patch)
        yield request.param


@pytest.fixture(scope="module")
def llm(folder: Path, ahead: bool) -> LLM:
    return make_llm(folder)


@contextmanager
def failing(llm: LLM, should_fail: Any) -> Iterator[list[int]]:
    """Make the model's forward raise when `should_fail(input_ids)`; yields the failures' sizes."""
    failures: list[int] = []

    def check(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if should_fail(kwargs["input_ids"]):
            failures.append(kwargs["input_ids"].numel())
            raise RuntimeError("the device caught fire")

    handle = llm._engine._model.module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failures
    finally:
        handle.remove()


def texts(outputs: Any) -> list[Any]:
    return [[tuple(c.token_ids) for c in out.outputs] for out in outputs]


def test_a_request_the_model_fails_on_takes_no_other_down(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(2)[:12]
    expected = [tuple(greedy(folder, p, 8)) for p in prompts]
    seen = {token for ids in [*prompts, *expected] for token in ids}
    poison = next(token for token in range(2, 256) if token not in seen)
    bad = [*prompts[3], poison, 5]
    with failing(llm, lambda ids: (ids == poison).any()) as failures:
        outputs = llm.generate([*prompts, bad], GREEDY, use_tqdm=False)
    assert len(failures) == 2
    assert failures[1] < failures[0]
    assert [tuple(out.outputs[0].token_ids) for out in outputs[:-1]] == expected
    error = outputs[-1].error
    assert error is not None
    assert error.status_code == 500
    assert "device caught fire" in str(error)
    assert llm.last_run is not None
    assert llm.last_run.requests.failed == 1


def test_a_passing_failure_costs_no_request(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(3)
    calls = iter(range(10_000))
    with failing(llm, lambda ids: next(calls) == 4) as failures:
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert len(failures) == 1
    assert texts(outputs) == [[tuple(greedy(folder, p, 8))] for p in prompts]


def test_a_model_that_always_fails_fails_every_request_once(llm: LLM) -> None:
    prompts = forest_of_prompts(4)
    with failing(llm, lambda ids: True):
        outputs = llm.generate(prompts, SamplingParams(max_tokens=4, n=2), use_tqdm=False)
    assert [out.prompt_token_ids for out in outputs] == prompts
    assert all(out.error is not None for out in outputs)


def test_a_dead_device_ends_the_run(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than turning a million requests into error records."""
    monkeypatch.setattr("shoal.engine.engine.MOST_FAILURES_IN_A_ROW", 5)
    with (
        failing(llm, lambda ids: True),
        pytest.raises(ModelFailedError, match=r"5 requests in a row.*caught fire"),
    ):
        llm.generate(forest_of_prompts(4), GREEDY, use_tqdm=False)


def test_what_was_done_before_the_device_died_is_carried(
    llm: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.engine.engine.MOST_FAILURES_IN_A_ROW", 2)
    prompts = forest_of_prompts(4)[:9]
    lengths = [2, 40, 2, 40, 2, 40, 40, 40, 40]
    params = [
        SamplingParams(max_tokens=n, temperature=0, ignore_eos=True, min_tokens=n) for n in lengths
    ]
    calls = iter(range(10_000))
    with failing(llm, lambda ids: next(calls) > 20), pytest.raises(ModelFailedError) as caught:
        llm.generate(prompts, params, use_tqdm=False)
    outputs = caught.value.outputs
    short = [place for place, length in enumerate(lengths) if length == 2]
    for place in short:
        assert outputs[place].outputs[0].token_ids == greedy(folder, prompts[place], 2)
    failed = [output for output in outputs if output is not None and output.error is not None]
    assert len(failed) == 2
    assert outputs.count(None) == len(prompts) - len(short) - len(failed)
    assert "5 of 9 prompts were done" in caught.value.__notes__[0]
    assert llm.last_run is not None
    assert (llm.last_run.requests.succeeded, llm.last_run.requests.failed) == (3, 2)
    after = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert texts(after) == [[tuple(greedy(folder, p, 8))] for p in prompts]


def test_logits_that_are_not_numbers_fail_only_their_request(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(5)
    head = llm._engine._model.module.lm_head

    def spoil(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((out[..., 7:8] == out[..., 7:8].max()), torch.nan)

    handle = head.register_forward_hook(spoil)
    try:
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    finally:
        handle.remove()
    assert len(outputs) == len(prompts)
    assert all(out.error is not None for out in outputs)


@pytest.mark.parametrize("sharing", ["forest", "none"])
def test_seeded_choices_do_not_depend_on_the_schedule(folder: Path, sharing: str) -> None:
    prompts = forest_of_prompts(6)
    params = SamplingParams(temperature=1.0, top_p=0.9, n=3, seed=11, max_tokens=8)
    whole = make_llm(folder, sharing=sharing).generate(prompts, params, use_tqdm=False)
    small = make_llm(folder, max_num_batched_tokens=9, kv_memory="64KiB", order="input")
    backwards = small.generate(prompts[::-1], params, use_tqdm=False)
    assert texts(whole) == texts(backwards)[::-1]
    alone = [small.generate([prompt], params, use_tqdm=False)[0] for prompt in prompts[:4]]
    assert texts(alone) == texts(whole[:4])
    choices = texts(whole)
    assert all(len(set(each)) > 1 for each in choices)
    # Identical prompts with one seed agree; different prompts do not share their numbers.
    assert len({tuple(each) for each in choices}) == len({tuple(prompt) for prompt in prompts})


def test_identical_prompts_share_everything(llm: LLM, folder: Path) -> None:
    prompt = forest_of_prompts(7)[-1] + list(range(2, 40))
    outputs = llm.generate([prompt] * 5, GREEDY, use_tqdm=False)
    assert texts(outputs) == [[tuple(greedy(folder, prompt, 8))]] * 5
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt_computed == len(prompt)


def test_choices_share_their_prompt_and_wait_for_memory(folder: Path) -> None:
    """Choices that are admitted late sample from logits kept since the prompt was computed."""
    prompt = list(range(2, 82))
    params = SamplingParams(temperature=1.0, seed=5, n=40, max_tokens=30)
    ample = make_llm(folder).generate([prompt], params, use_tqdm=False)
    llm = make_llm(folder, kv_memory="48KiB")
    tight = llm.generate([prompt], params, use_tqdm=False)
    assert texts(tight) == texts(ample)
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt_computed == len(prompt)


def test_prompt_logprobs_equal_the_models(llm: LLM, folder: Path) -> None:
    prompts = [list(range(2, 2 + n)) for n in (1, 2, 20, 150)]
    params = SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=3, logprobs=3)
    module = llm._engine._model.module
    outputs = llm.generate(prompts, params, use_tqdm=False)
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert module is not oracle
    for prompt, out in zip(prompts, outputs, strict=True):
        choice = out.outputs[0]
        ids = prompt + list(choice.token_ids)
        with torch.inference_mode():
            logprobs = torch.log_softmax(oracle(torch.tensor([ids])).logits[0], dim=-1)
        assert out.prompt_logprobs is not None
        assert out.prompt_logprobs[0] is None
        assert len(out.prompt_logprobs) == len(prompt)
        assert choice.logprobs is not None
        for position, entries in enumerate([*out.prompt_logprobs[1:], *choice.logprobs], start=1):
            row, token = logprobs[position - 1], ids[position]
            assert entries is not None
            assert entries[token].logprob == pytest.approx(float(row[token]), abs=1e-4)
            best = row.topk(3).indices.tolist()
            assert set(entries) == {*best, token}
            assert [entries[each].rank for each in best] == [1, 2, 3]
            assert entries[token].rank == int((row >= row[token]).sum())


def test_the_prompt_may_be_scored_without_the_answer(llm: LLM) -> None:
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    (out,) = llm.generate([[5, 6, 7]], params, use_tqdm=False)
    assert [list(entries or ()) for entries in out.prompt_logprobs or ()] == [[], [6], [7]]
    assert out.outputs[0].logprobs is None


def test_wrong_requests_are_named(llm: LLM) -> None:
    for prompts, params, message in [
        ([[]], None, r"prompts\[0\] is empty"),
        ([[5], [256]], None, r"prompts\[1\] holds token id 256 at position 0, outside"),
        ([[5] * 300], None, "at most 256"),
    ]:
        error = llm.generate(prompts, params, use_tqdm=False)[-1].error
        assert error is not None
        assert re.search(message, str(error))
    wrong = SamplingParams(logit_bias={999: 1.0})
    with pytest.raises(InvalidRequestError, match="not in the model's vocabulary"):
        llm.generate([[5]], wrong, use_tqdm=False)
    error = llm.chat([{"role": "user", "content": "x"}], use_tqdm=False)[0].error
    assert re.match(r"messages\[0\].*no chat template", str(error))
    with pytest.raises(InvalidRequestError, match="temperature: input should be less") as caught:
        SamplingParams(temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(OptionError, match="2 sampling parameters for 1 prompts"):
        llm.generate([[5]], [GREEDY, GREEDY], use_tqdm=False)


def test_parameters_may_differ_by_prompt(llm: LLM) -> None:
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (1, 5, 3)]
    outputs = llm.generate(["a", "b", "c"], params, use_tqdm=False)
    assert [len(out.outputs[0].token_ids) for out in outputs] == [1, 5, 3]


def test_no_prompts_no_completions(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []
