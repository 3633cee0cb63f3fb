"""The loop: failures inside the model, choices, echo, seeds; on a real tiny random model."""

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
    return [[c.token_ids for c in out.choices] for out in outputs]


def test_a_request_the_model_fails_on_takes_no_other_down(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(2)[:12]
    expected = [tuple(greedy(folder, p, 8)) for p in prompts]
    seen = {token for ids in [*prompts, *expected] for token in ids}
    poison = next(token for token in range(2, 256) if token not in seen)
    bad = [*prompts[3], poison, 5]
    with failing(llm, lambda ids: (ids == poison).any()) as failures:
        outputs = llm.generate([*prompts, bad], GREEDY, progress=False)
    assert len(failures) == 2
    assert failures[1] < failures[0]
    assert [out.choices[0].token_ids for out in outputs[:-1]] == expected
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
        outputs = llm.generate(prompts, GREEDY, progress=False)
    assert len(failures) == 1
    assert texts(outputs) == [[tuple(greedy(folder, p, 8))] for p in prompts]


def test_a_model_that_always_fails_fails_every_request_once(llm: LLM) -> None:
    prompts = forest_of_prompts(4)
    with failing(llm, lambda ids: True):
        outputs = llm.generate(prompts, SamplingParams(max_tokens=4, n=2), progress=False)
    assert [out.request_index for out in outputs] == list(range(len(prompts)))
    assert all(out.error is not None for out in outputs)


def test_a_dead_device_ends_the_run(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than turning a million requests into error records."""
    monkeypatch.setattr("shoal.engine.engine.MOST_FAILURES_IN_A_ROW", 5)
    with (
        failing(llm, lambda ids: True),
        pytest.raises(ModelFailedError, match=r"5 requests in a row.*caught fire"),
    ):
        llm.generate(forest_of_prompts(4), GREEDY, progress=False)


def test_logits_that_are_not_numbers_fail_only_their_request(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(5)
    head = llm._engine._model.module.lm_head

    def spoil(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((out[..., 7:8] == out[..., 7:8].max()), torch.nan)

    handle = head.register_forward_hook(spoil)
    try:
        outputs = llm.generate(prompts, GREEDY, progress=False)
    finally:
        handle.remove()
    assert len(outputs) == len(prompts)
    assert all(out.error is not None for out in outputs)


@pytest.mark.parametrize("sharing", ["forest", "none"])
def test_seeded_choices_do_not_depend_on_the_schedule(folder: Path, sharing: str) -> None:
    prompts = forest_of_prompts(6)
    params = SamplingParams(temperature=1.0, top_p=0.9, n=3, seed=11, max_tokens=8)
    whole = make_llm(folder, sharing=sharing).generate(prompts, params, progress=False)
    small = make_llm(folder, token_budget=9, kv_memory="64KiB", order="input")
    backwards = small.generate(prompts[::-1], params, progress=False)
    assert texts(whole) == texts(backwards)[::-1]
    alone = [small.generate([prompt], params, progress=False)[0] for prompt in prompts[:4]]
    assert texts(alone) == texts(whole[:4])
    choices = texts(whole)
    assert all(len(set(each)) > 1 for each in choices)
    # Identical prompts with one seed agree; different prompts do not share their numbers.
    assert len({tuple(each) for each in choices}) == len({tuple(prompt) for prompt in prompts})


def test_identical_prompts_share_everything(llm: LLM, folder: Path) -> None:
    prompt = forest_of_prompts(7)[-1] + list(range(2, 40))
    outputs = llm.generate([prompt] * 5, GREEDY, progress=False)
    assert texts(outputs) == [[tuple(greedy(folder, prompt, 8))]] * 5
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt_computed == len(prompt)


def test_choices_share_their_prompt_and_wait_for_memory(folder: Path) -> None:
    """Choices that are admitted late sample from logits kept since the prompt was computed."""
    prompt = list(range(2, 82))
    params = SamplingParams(temperature=1.0, seed=5, n=40, max_tokens=30)
    ample = make_llm(folder).generate([prompt], params, progress=False)
    llm = make_llm(folder, kv_memory="48KiB")
    tight = llm.generate([prompt], params, progress=False)
    assert texts(tight) == texts(ample)
    assert llm.last_run is not None
    assert llm.last_run.tokens.prompt_computed == len(prompt)


def test_prompt_logprobs_equal_the_models(llm: LLM, folder: Path) -> None:
    prompts = [list(range(2, 2 + n)) for n in (1, 2, 20, 150)]
    params = SamplingParams(temperature=0.0, max_tokens=2, echo=True, logprobs=3)
    module = llm._engine._model.module
    outputs = llm.generate(prompts, params, progress=False)
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert module is not oracle
    for prompt, out in zip(prompts, outputs, strict=True):
        choice = out.choices[0]
        ids = prompt + list(choice.token_ids)
        with torch.inference_mode():
            logprobs = torch.log_softmax(oracle(torch.tensor([ids])).logits[0], dim=-1)
        assert choice.logprobs is not None
        assert [entry.token_id for entry in choice.logprobs] == ids
        assert choice.logprobs[0].logprob is None
        for position, entry in enumerate(choice.logprobs[1:], start=1):
            row = logprobs[position - 1]
            assert entry.logprob == pytest.approx(float(row[ids[position]]), abs=1e-4)
            assert [token for token, _ in entry.top] == row.topk(3).indices.tolist()


def test_a_prompt_alone_can_be_scored(llm: LLM) -> None:
    params = SamplingParams(max_tokens=0, echo=True, logprobs=0)
    out = llm.generate([[5, 6, 7]], params, progress=False)[0].choices[0]
    assert (out.token_ids, out.finish_reason) == ((), "length")
    assert out.logprobs is not None
    assert len(out.logprobs) == 3


def test_wrong_requests_are_named(llm: LLM) -> None:
    for prompts, params, message in [
        ([[]], None, r"prompts\[0\] is empty"),
        ([[5], [256]], None, r"prompts\[1\] holds a token id outside"),
        ([[5] * 300], None, "at most 256"),
        ([[5]], SamplingParams(logit_bias={"999": 1.0}), "not in the model's vocabulary"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            llm.generate(prompts, params, progress=False)
    for call, wrong in [(llm.generate, "one prompt"), (llm.chat, [{"role": "user"}])]:
        with pytest.raises(OptionError, match="put this one in a list"):
            call(wrong)
    with pytest.raises(InvalidRequestError, match=r"conversations\[0\].*no chat template"):
        llm.chat([[{"role": "user", "content": "x"}]])
    with pytest.raises(InvalidRequestError, match="temperature: input should be less") as caught:
        SamplingParams(temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(OptionError, match="2 sampling parameters for 1 prompts"):
        llm.generate([[5]], [GREEDY, GREEDY], progress=False)


def test_parameters_may_differ_by_prompt(llm: LLM) -> None:
    params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (1, 5, 3)]
    outputs = llm.generate(["a", "b", "c"], params, progress=False)
    assert [len(out.choices[0].token_ids) for out in outputs] == [1, 5, 3]


def test_no_prompts_no_completions(llm: LLM) -> None:
    assert llm.generate([], GREEDY) == []
