"""Running ahead gives the answers of running in step; and an end to memory is survived."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal import LLM, SamplingParams
from shoal.engine.pipeline import LEAST_BUDGET
from shoal.errors import DeviceLostError
from shoal.executor.executor import PendingResult, TorchExecutor
from shoal.model.memory import out_of_memory
from shoal.sampling.results import StepResult
from shoal.scheduler import TokenBatch
from tests.helpers.ahead import run_ahead
from tests.helpers.logprobs import same_logprobs
from tests.helpers.models import forest_of_prompts, greedy, save_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=10)
FEATURES = [
    SamplingParams(temperature=0.0, max_tokens=12, stop=("a", "\u00e9")),
    SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=9),
    SamplingParams(temperature=0.8, seed=4, top_p=0.8, top_k=40, min_p=0.01, max_tokens=9),
    SamplingParams(temperature=0.9, seed=5, top_p=0.7, n=2, max_tokens=7, logprobs=2),
    SamplingParams(temperature=0.0, max_tokens=9, repetition_penalty=1.3, frequency_penalty=0.5),
    SamplingParams(temperature=1.0, seed=6, presence_penalty=1.5, max_tokens=8),
    SamplingParams(temperature=0.0, max_tokens=8, logprobs=4),
    SamplingParams(temperature=0.0, max_tokens=4, logprob_token_ids=[9, 3, 200]),
    SamplingParams(temperature=0.0, max_tokens=5, prompt_logprobs=1, logprobs=1),
    SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0),
    SamplingParams(temperature=0.0, max_tokens=9, min_tokens=5, logit_bias={1: 30.0}),
    SamplingParams(temperature=1.0, seed=7, max_tokens=9, logit_bias={7: 3.0, 9: 2.0}),
    SamplingParams(temperature=0.0, max_tokens=9, stop_token_ids=[5, 6, 7, 8, 9, 10, 11, 12]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    run_ahead(monkeypatch)


def make_llm(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), **{"dtype": "float32", "kv_memory": "4MiB", **options})


def tokens(outputs: Any) -> list[Any]:
    return [[tuple(choice.token_ids) for choice in out.outputs] for out in outputs]


@pytest.mark.parametrize("sharing", ["forest", "single", "paper", "none"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
@pytest.mark.usefixtures("ahead")
def test_it_generates_what_transformers_does(
    tmp_path: Path, architecture: str, sharing: str
) -> None:
    folder = save_model(tmp_path, architecture)
    prompts = forest_of_prompts(8)[:10]
    expected = [[tuple(greedy(folder, prompt, 10))] for prompt in prompts]
    for options in ({}, {"max_num_batched_tokens": 13, "kv_memory": "96KiB"}):
        llm = make_llm(folder, sharing=sharing, **options)
        assert tokens(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected


@pytest.mark.parametrize(
    "options", [{}, {"max_num_batched_tokens": 24, "kv_memory": "96KiB"}], ids=str
)
def test_every_feature_gives_what_it_gives_in_step(
    folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = forest_of_prompts(9)[: len(FEATURES)]
    expected = make_llm(folder, **options).generate(prompts, FEATURES, use_tqdm=False)
    run_ahead(monkeypatch)
    llm = make_llm(folder, **options)
    for out, wanted in zip(llm.generate(prompts, FEATURES, use_tqdm=False), expected, strict=True):
        assert out.error is None
        for choice, other in zip(out.outputs, wanted.outputs, strict=True):
            assert choice.token_ids == other.token_ids
            assert (choice.text, choice.finish_reason) == (other.text, other.finish_reason)
            same_logprobs(choice.logprobs, other.logprobs)
        same_logprobs(out.prompt_logprobs, wanted.prompt_logprobs)


def test_two_batches_are_under_way_unless_penalties_need_the_last_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ahead(monkeypatch)
    llm = make_llm(folder)
    under_way: list[PendingResult] = []
    most: list[int] = []

    def watched(params: SamplingParams) -> int:
        most.clear()
        llm.generate(forest_of_prompts(2)[:4], params, use_tqdm=False)
        assert not under_way
        return max(most)

    launch, collect = TorchExecutor.launch, TorchExecutor.collect

    def counted_launch(self: TorchExecutor, batch: TokenBatch) -> PendingResult:
        under_way.append(launch(self, batch))
        most.append(len(under_way))
        return under_way[-1]

    def in_order(self: TorchExecutor, pending: PendingResult) -> StepResult:
        assert under_way.pop(0) is pending
        return collect(self, pending)

    monkeypatch.setattr(TorchExecutor, "launch", counted_launch)
    monkeypatch.setattr(TorchExecutor, "collect", in_order)
    assert watched(GREEDY) == 2
    assert watched(SamplingParams(temperature=0.0, max_tokens=8, presence_penalty=1.0)) == 1


@contextmanager
def short_of_memory(llm: LLM, rows: int, poison: int = -1) -> Iterator[list[int]]:
    """The model's forward runs out of memory above some rows, or with a token among them."""
    failures: list[int] = []

    def check(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        if ids.numel() > rows or (ids == poison).any():
            failures.append(ids.numel())
            raise torch.OutOfMemoryError(f"out of memory for {ids.numel()} rows")

    handle = llm._engine._model.module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failures
    finally:
        handle.remove()


@pytest.mark.parametrize("mode", ["in step", "ahead"])
def test_out_of_memory_shrinks_the_batches_and_goes_on(
    folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Down to fewer rows than there are decodes; nobody's answer changes."""
    if mode == "ahead":
        run_ahead(monkeypatch)
    prompts = [[2 + i, 3, 4] for i in range(60)]
    llm = make_llm(folder, max_num_batched_tokens=256)
    with short_of_memory(llm, 20) as failures, caplog.at_level(logging.WARNING):
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert tokens(outputs) == [[tuple(greedy(folder, p, 10))] for p in prompts]
    assert len(failures) == len(caplog.records) == 4  # 180 tokens, 90, 45, 22; then 16 at most
    assert "at most 16 from now on" in caplog.records[-1].getMessage()
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("mode", ["in step", "ahead"])
def test_a_request_that_runs_out_alone_fails_alone(
    folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "ahead":
        run_ahead(monkeypatch)
    prompts = forest_of_prompts(2)[:8]
    expected = [tuple(greedy(folder, p, 10)) for p in prompts]
    seen = {token for ids in [*prompts, *expected] for token in ids}
    poison = next(token for token in range(2, 256) if token not in seen)
    llm = make_llm(folder, max_num_batched_tokens=64)
    with short_of_memory(llm, 10**6, poison) as failures:
        outputs = llm.generate([*prompts, [poison, 5]], GREEDY, use_tqdm=False)
    assert [tuple(out.outputs[0].token_ids) for out in outputs[:-1]] == expected
    assert outputs[-1].error is not None
    assert outputs[-1].error.status_code == 500
    assert failures[-1] <= LEAST_BUDGET


@pytest.mark.parametrize("mode", ["in step", "ahead"])
def test_failing_at_a_time_of_every_kind_costs_no_answer(
    folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors and ends of memory, at launches and (ahead) while results are waited for."""
    made = run_ahead(monkeypatch) if mode == "ahead" else []
    launch, collect, calls = TorchExecutor.launch, TorchExecutor.collect, iter(range(10_000))

    def maybe_fail(batch: TokenBatch) -> None:
        """Never a sequence that is tried alone: that is another test."""
        number = next(calls)
        if number % 7 == 3 and len(batch.sequences) > 1:
            failures.append(number)
            raise (torch.OutOfMemoryError if number % 2 else RuntimeError)("for a moment")

    def failing_launch(self: TorchExecutor, batch: TokenBatch) -> PendingResult:
        maybe_fail(batch)
        return launch(self, batch)

    def failing_collect(self: TorchExecutor, pending: PendingResult) -> StepResult:
        maybe_fail(pending.batch)
        return collect(self, pending)

    failures: list[int] = []
    monkeypatch.setattr(TorchExecutor, "launch", failing_launch)
    monkeypatch.setattr(TorchExecutor, "collect", failing_collect)
    prompts = forest_of_prompts(4)
    llm = make_llm(folder, kv_memory="128KiB", max_num_batched_tokens=64)
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert tokens(outputs) == [[tuple(greedy(folder, p, 10))] for p in prompts]
    assert llm.last_run is not None
    assert llm.last_run.tokens.generated == sum(len(c) for out in tokens(outputs) for c in out)
    assert len(failures) > 5
    assert all(executor._retained == {} for executor in made)


def test_a_suspect_that_runs_out_of_memory_is_tried_in_smaller_batches(folder: Path) -> None:
    prompts = [list(range(2, 62)), list(range(70, 130))]
    llm = make_llm(folder, max_num_batched_tokens=256)
    calls = iter(range(1000))

    def check(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if next(calls) == 0:
            raise RuntimeError("a passing failure")
        if kwargs["input_ids"].numel() > 20:
            raise torch.OutOfMemoryError("too many rows")

    handle = llm._engine._model.module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    finally:
        handle.remove()
    assert tokens(outputs) == [[tuple(greedy(folder, p, 10))] for p in prompts]


@pytest.mark.parametrize("mode", ["in step", "ahead"])
@pytest.mark.parametrize("where", ["launch", "collect"])
def test_a_lost_device_ends_the_run_at_once(
    folder: Path, mode: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "ahead":
        run_ahead(monkeypatch)
    calls = iter(range(100))
    wrapped = getattr(TorchExecutor, where)

    def lost(self: TorchExecutor, given: Any) -> Any:
        if next(calls) >= 4:
            raise DeviceLostError("gone")
        return wrapped(self, given)

    monkeypatch.setattr(TorchExecutor, where, lost)
    with pytest.raises(DeviceLostError, match="gone"):
        make_llm(folder).generate(forest_of_prompts(4), GREEDY, use_tqdm=False)
    assert next(calls) == 5


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("the device caught fire"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_an_end_of_memory(error: Exception, is_it: bool) -> None:
    assert out_of_memory(error) is is_it
