"""A model in two processes (gloo, on the CPU) gives what transformers gives, and stays in step.

Each device sums a part of every product, so logits differ in their last digits from those of one
device. Tokens are equal all the same: the models' weights are so large (`initializer_range` 0.3)
that the seeds used here have no two best tokens that near to each other.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from shoal import LLM, SamplingParams
from shoal.config import Sharing
from shoal.errors import DeviceLostError, ModelLoadError, OptionError, UnsupportedModelError
from shoal.model.load import LoadedModel
from shoal.processes import PATIENCE_SECONDS, workers
from shoal.processes.workers import limit_waiting
from tests.helpers import forked
from tests.helpers.ahead import run_ahead
from tests.helpers.logprobs import same_logprobs
from tests.helpers.models import forest_of_prompts, greedy, save_model
from tests.helpers.processes import ends, rank_1_of, sharded

MAX_NEW_TOKENS = 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
PROMPTS = forest_of_prompts(0)
OPTIONS = {"dtype": "float32", "device": "cpu", "kv_memory": "4MiB", "max_num_batched_tokens": 40}


@contextmanager
def two_processes(folder: Path, **options: Any) -> Iterator[LLM]:
    llm = LLM(str(folder), tensor_parallel_size=2, **{**OPTIONS, **options})
    try:
        yield llm
    finally:
        sharded(llm).close()


def tokens(llm: LLM, prompts: list[list[int]], params: SamplingParams = GREEDY) -> list[Any]:
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert all(out.error is None for out in outputs), next(out.error for out in outputs)
    return [[list(choice.token_ids) for choice in out.outputs] for out in outputs]


def expected(folder: Path, prompts: list[list[int]]) -> list[list[list[int]]]:
    return [[greedy(folder, prompt, MAX_NEW_TOKENS)] for prompt in prompts]


@contextmanager
def before_each_forward(llm: LLM, call: Callable[[], None]) -> Iterator[None]:
    """Calls something in the first process, before each forward."""
    handle = sharded(llm).module.register_forward_pre_hook(lambda module, args: call())
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("architecture", "changes", "kv_heads"),
    [
        ("llama", {"tie_word_embeddings": True}, 1),
        ("qwen2", {"vocab_size": 257}, 1),
        ("qwen3", {}, 1),
        ("mixtral", {}, 1),
        ("phi3", {}, 2),
        ("gpt_neox", {}, 2),
    ],
)
def test_equals_generate(
    tmp_path: Path, architecture: str, changes: dict[str, Any], kv_heads: int
) -> None:
    """Tied weights, a vocabulary no two devices share evenly, experts, heads that stay whole."""
    folder = save_model(tmp_path, architecture, **changes)
    with two_processes(folder) as llm:
        assert [heads for heads, _, _ in sharded(llm).layers] == [kv_heads] * 2
        assert sharded(llm).fused == {}
        assert tokens(llm, PROMPTS) == expected(folder, PROMPTS)


class TestLlama:
    """One model, in one pair of processes as long as they live."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return save_model(tmp_path_factory.mktemp("model"), "llama")

    @pytest.fixture(scope="class")
    def llm(self, folder: Path) -> Iterator[LLM]:
        with two_processes(folder) as llm:
            yield llm

    @pytest.mark.parametrize(("sharing", "budget"), zip(Sharing, (7, 65, 33, 2048), strict=True))
    def test_every_sharing_equals_generate(
        self,
        llm: LLM,
        folder: Path,
        sharing: Sharing,
        budget: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = replace(llm._engine.options, sharing=sharing)
        monkeypatch.setattr(llm._engine, "options", options)
        machine = replace(llm._engine.machine, token_budget=budget)
        monkeypatch.setattr(llm._engine, "machine", machine)
        assert tokens(llm, PROMPTS) == expected(folder, PROMPTS)

    def test_running_ahead_equals_generate(
        self, llm: LLM, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on CUDA: a batch is launched before the tokens it begins with are known here."""
        run_ahead(monkeypatch)
        assert tokens(llm, PROMPTS) == expected(folder, PROMPTS)

    def test_choices_and_scores_equal_those_of_one_process(self, llm: LLM, folder: Path) -> None:
        params = [
            SamplingParams(temperature=0.7, seed=5, n=3, max_tokens=6, repetition_penalty=1.3),
            SamplingParams(temperature=0.0, max_tokens=4, logprobs=2, prompt_logprobs=2),
        ]
        one = LLM(str(folder), **OPTIONS)
        for each in params:
            ours, theirs = (
                model.generate(PROMPTS[:6], each, use_tqdm=False) for model in (llm, one)
            )
            for mine, other in zip(ours, theirs, strict=True):
                assert [c.token_ids for c in mine.outputs] == [c.token_ids for c in other.outputs]
                for a, b in zip(mine.outputs, other.outputs, strict=True):
                    same_logprobs(a.logprobs, b.logprobs)
                same_logprobs(mine.prompt_logprobs, other.prompt_logprobs)

    def test_kv_memory_is_per_device(self, llm: LLM, folder: Path) -> None:
        """Half the heads each: twice the blocks. And what is in use is counted per device."""
        assert (
            llm._engine.machine.num_blocks
            == 2 * LLM(str(folder), **OPTIONS)._engine.machine.num_blocks
        )
        assert llm._engine._kv[0].shape.kv_heads == 1
        assert llm.last_run is not None
        assert 0 < llm.last_run.peak_kv_bytes <= 4 * 2**20

    def test_a_failure_in_the_first_process_costs_no_request(self, llm: LLM, folder: Path) -> None:
        """It fails before, between and after the exchanges of a forward."""
        module = sharded(llm).module
        for part in (module, module.model.layers[1].mlp, module.model.norm):
            calls = iter(range(10_000))

            def fail(*call: object, calls: Iterator[int] = calls) -> None:
                if next(calls) == 4:
                    raise RuntimeError("passing")

            handle = part.register_forward_pre_hook(fail)
            try:
                assert tokens(llm, PROMPTS[:8]) == expected(folder, PROMPTS[:8])
                assert next(calls) > 5
            finally:
                handle.remove()

    def test_memory_that_is_not_there_in_one_process(self, llm: LLM) -> None:
        """Allocations are repeated by the others, agreed upon, and given back."""
        backend, shape = llm._engine._kv.backend, llm._engine._kv[0].shape
        huge = replace(shape, num_blocks=2**40)
        with pytest.raises(RuntimeError, match=r"memory|alloc|bytes|storage"):
            backend.allocate(huge)
        layer = backend.allocate(shape)
        del layer
        assert sharded(llm).workers._freed != []
        tokens(llm, PROMPTS[:2])
        assert sharded(llm).workers._freed == []

    def test_a_second_model_in_this_process_is_refused(self, llm: LLM, folder: Path) -> None:
        with pytest.raises(OptionError, match="Only one tensor parallel model"):
            LLM(str(folder), tensor_parallel_size=2, **OPTIONS)
        tokens(llm, PROMPTS[:2])

    def test_its_process_dies(self, llm: LLM, folder: Path) -> None:
        """Killed in the middle of a run: it ends at once, says why and how to go on."""
        pid, calls = rank_1_of(llm), iter(range(10_000))

        def kill() -> None:
            if next(calls) == 3:
                os.kill(pid, signal.SIGKILL)

        began = time.monotonic()
        with (
            before_each_forward(llm, kill),
            pytest.raises(DeviceLostError, match=r"2 of 2 was killed by SIGKILL.*run the same"),
        ):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
        assert time.monotonic() - began < 10
        with pytest.raises(DeviceLostError, match="SIGKILL"):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)


def test_another_process_fails_at_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a forward, for want of memory: that request fails, and no other."""
    folder = save_model(tmp_path, "llama")
    seen = {token for prompt in PROMPTS for token in prompt}
    seen |= {token for out in expected(folder, PROMPTS) for token in out[0]}
    poison = next(token for token in range(2, 256) if token not in seen)
    monkeypatch.setattr(workers, "spawn", forked.spoilt(poison))
    with two_processes(folder) as llm:
        bad = [*PROMPTS[3], poison, 5]
        outputs = llm.generate([*PROMPTS, bad], GREEDY, use_tqdm=False)
    assert [[list(out.outputs[0].token_ids)] for out in outputs[:-1]] == expected(folder, PROMPTS)
    error = outputs[-1].error
    assert error is not None
    assert error.status_code == 500
    assert "OutOfMemoryError: process 2 of 2: OutOfMemoryError: no memory" in str(error)


def test_ctrl_c_in_the_middle_of_a_forward(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    with two_processes(folder) as llm:
        pid, layer = rank_1_of(llm), sharded(llm).module.model.layers[1]

        def interrupt(*call: object) -> None:
            raise KeyboardInterrupt

        layer.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
        assert ends(pid)
        with pytest.raises(DeviceLostError, match="closed"):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)


@pytest.mark.parametrize("where", ["exchange", "answer", "order"])
def test_a_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """It is given up after a while, wherever the first process waits for it."""
    folder = save_model(tmp_path, "llama")
    with two_processes(folder) as llm:
        group, pid = sharded(llm).workers, rank_1_of(llm)
        monkeypatch.setattr("shoal.tensor_parallel.worker_group._NOTICE_SECONDS", 0.2)
        monkeypatch.setattr(workers, "GRACE_SECONDS", 0.2)
        match where:
            case "exchange":
                dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
            case "answer":
                monkeypatch.setattr(group, "_patience", 0.5)
                monkeypatch.setattr(dist, "broadcast", lambda columns, src: None)
                monkeypatch.setattr(LoadedModel, "logits", lambda *call: torch.zeros(1))
            case "order":
                limit_waiting(group.processes.running[1].connection, 0.5)
                monkeypatch.setattr(dist, "broadcast", lambda columns, src: None)
                monkeypatch.setattr(LoadedModel, "logits", lambda *call: torch.zeros(1))
                monkeypatch.setattr(workers, "encode", lambda message: [b"x" * 2**24])
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DeviceLostError, match="2 processes that hold the model is gone"):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
        assert time.monotonic() - began < 10
        assert ends(pid)


def test_a_part_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, "llama")
    monkeypatch.setattr(workers, "spawn", forked.launch_without_a_model)
    began = time.monotonic()
    with pytest.raises(ModelLoadError, match=r"in 2 processes: process 2 of 2 .*no such weights"):
        LLM(str(folder), tensor_parallel_size=2, **OPTIONS)
    assert time.monotonic() - began < PATIENCE_SECONDS / 10
    assert not torch.distributed.is_initialized()


def test_a_model_that_no_process_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all find out alike is told once, as it would be of one process."""
    folder = save_model(tmp_path, "llama")
    monkeypatch.setattr(workers, "spawn", forked.launch_with_an_unknown_feature)
    monkeypatch.setattr("shoal.model.load.probe_attention", forked.refuse)
    with pytest.raises(UnsupportedModelError, match=r"^an unknown feature$"):
        LLM(str(folder), tensor_parallel_size=2, **OPTIONS)


def test_accelerate_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "shoal.tensor_parallel.sharded_model.is_accelerate_available", lambda: False
    )
    with pytest.raises(ModelLoadError, match="pip install accelerate"):
        LLM(str(save_model(tmp_path, "llama")), tensor_parallel_size=2, **OPTIONS)
