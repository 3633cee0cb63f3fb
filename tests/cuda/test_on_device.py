"""On a GPU, where there is one: graphs, memory and fused modules as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.errors import OptionError
from shoal.machine.device_memory import CudaMemory, held_by_others, peak_of
from shoal.model import load as loading
from shoal.model.description import ModelDescription
from shoal.model.fusion import Trial
from shoal.model.load import LoadedModel, load_model, prepare_model
from tests.helpers.fused import FUSED
from tests.helpers.interpreter import on_hardware
from tests.helpers.models import forest_of_prompts, greedy, save_model

pytestmark = pytest.mark.skipif(not on_hardware(), reason="needs a CUDA device")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gemma"])
def test_float32_answers_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / architecture, architecture)
    llm = LLM(
        str(folder), dtype="float32", device="cuda", kv_memory="4MiB", max_num_batched_tokens=64
    )
    prompts = forest_of_prompts(3)
    params = SamplingParams(temperature=0.0, max_tokens=9)
    for prompt, output in zip(prompts, llm.generate(prompts, params, use_tqdm=False), strict=True):
        assert list(output.outputs[0].token_ids) == greedy(folder, prompt, 9)
    assert llm._engine._model.fused == FUSED[architecture]
    graphs = llm._engine._graphs
    assert graphs is not None
    assert graphs.captured


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma"])
def test_fused_modules_round_no_worse(architecture: str, dtype: str, tmp_path: Path) -> None:
    """Than the unfused model, against float32."""
    folder = save_model(tmp_path, architecture)

    def logits(dtype: str, load: Callable[[ModelDescription], LoadedModel]) -> torch.Tensor:
        options = EngineOptions(dtype=dtype, device="cuda")
        description = ModelDescription.load(str(folder), options)
        model = load(description)
        assert model.fused == (FUSED[architecture] if load is load_model else {})
        with torch.inference_mode():
            return Trial(model.layers, description).run(model.logits).float()

    def unfused(description: ModelDescription) -> LoadedModel:
        return prepare_model(loading._read_weights(description), description)

    exact, plain = logits("float32", unfused), logits(dtype, unfused)
    found = logits(dtype, load_model)
    assert (found - exact).norm() < 1.25 * (plain - exact).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [896, 4096])
def test_norms_round_where_transformers_does(width: int, dtype: torch.dtype) -> None:
    """To the bit, but for a few numbers: the sum of squares is taken in another order."""
    from shoal.kernels.triton_ops import TritonOps

    norm = LlamaRMSNorm(width).to("cuda", dtype)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(100, width, device="cuda", dtype=dtype)
    found = TritonOps().rms_norm(norm.weight.detach(), norm.variance_epsilon, 0.0)(x)
    assert (found == norm(x)).float().mean() > 0.99


def test_fusing_takes_no_second_copy_of_the_model(tmp_path: Path) -> None:
    """At most a layer's merged weights are there beside what they are made of."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    folder = save_model(tmp_path, "llama", **shape)
    options = EngineOptions(dtype="float32", device="cuda", max_model_len=256)
    description = ModelDescription.load(str(folder), options)
    model = prepare_model(loading._read_weights(description), description)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fused = loading._fuse(model, description)
    assert fused is not None
    layer = 4 * (3 * 512 * 2048 + 4 * 512 * 512)
    assert torch.cuda.max_memory_allocated() - before < 3 * layer
    assert torch.cuda.memory_allocated() - before < layer


def test_auto_takes_what_is_left_and_no_more(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama")
    llm = LLM(str(folder), device="cuda", max_num_batched_tokens=512, gpu_memory_utilization=0.3)
    memory = CudaMemory(torch.device("cuda"))
    used = memory.total() - memory.free()
    assert 0.2 < used / memory.total() < 0.31
    assert len(llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4), use_tqdm=False)) == 1


def test_more_than_there_is_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "llama", "llama")
    with pytest.raises(OptionError, match="does not fit"):
        LLM(str(folder), device="cuda", kv_memory="100TiB", max_num_batched_tokens=512)


def test_the_allocator_is_read() -> None:
    memory, device = CudaMemory(torch.device("cuda")), torch.device("cuda")

    def work() -> None:
        torch.empty(2**26, dtype=torch.uint8, device=device)

    assert peak_of(memory, work) == 2**26
    assert 0 < held_by_others(memory) < memory.total()


def test_out_of_memory_is_recovered_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The allocator refuses the logits of large batches: smaller ones give the same answers."""
    folder = save_model(tmp_path / "llama", "llama", vocab_size=65_536)
    llm = LLM(
        str(folder), dtype="float32", device="cuda", kv_memory="16MiB", max_num_batched_tokens=2048
    )
    prompts = [[5 + place % 200, 6, 7 + place // 200] for place in range(1500)]
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)

    def answers() -> list[list[int]]:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    expected = answers()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + (100 << 20)
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])
    try:
        assert answers() == expected
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory in a batch of" in caplog.text
    assert answers() == expected
