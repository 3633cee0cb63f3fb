"""Work counted from a config, against formulas written down by hand and against real weights."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.models import MODELS, make_config
from shoal.config import EngineOptions, Quantization
from shoal.costs import Expanding, Rates
from shoal.machine.model_costs import default_costs, model_costs
from shoal.machine.weight_counts import count_weights
from shoal.model.description import ModelDescription
from shoal.work import Window
from tests.helpers.models import ARCHITECTURES, save_model

RATES = Rates(
    flops_per_second=1e11,
    bytes_per_second=1e10,
    iteration_seconds=1e-3,
    segment_seconds=1e-5,
    use_seconds=1e-6,
)


@pytest.mark.parametrize("name", [n for n, shape in MODELS.items() if not shape.experts])
def test_counts_the_products_of_dense_models(name: str) -> None:
    shape = MODELS[name]
    counts = count_weights(make_config(shape))
    assert counts.layers == counts.active == shape.linear_parameters
    assert counts.head == shape.vocabulary * shape.hidden


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_is_counted_once(tmp_path: Path, architecture: str) -> None:
    """All parameters of the loaded model are products, the head, look-ups, or vectors."""
    config = AutoConfig.from_pretrained(save_model(tmp_path, architecture))
    counts = count_weights(config)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    head = model.get_output_embeddings().weight
    looked_up = {
        id(p): p.numel()
        for name, p in model.named_parameters()
        if any(part in name for part in ("embed", "wte", "wpe")) and p is not head
    }
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert counts.layers + counts.head + sum(looked_up.values()) == matrices
    assert 0 < counts.active <= counts.layers


@pytest.mark.parametrize(
    ("architecture", "moe"), [("mixtral", True), ("qwen3_moe", True), ("llama", False)]
)
def test_only_active_experts_count(tmp_path: Path, architecture: str, moe: bool) -> None:
    config = AutoConfig.from_pretrained(save_model(tmp_path, architecture))
    counts = count_weights(config)
    if not moe:
        assert counts.active == counts.layers
        return
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    expert = 3 * config.hidden_size * width * config.num_hidden_layers
    assert counts.layers - counts.active == expert * (experts - config.num_experts_per_tok)


def test_experts_that_compute_nothing_cost_nothing(tmp_path: Path) -> None:
    """Of 4 experts and 2 idle ones a token is given to 3, so 2 compute; a stack has room for 6."""
    config = AutoConfig.from_pretrained(save_model(tmp_path, "longcat_flash"))
    counts = count_weights(config)
    product = config.hidden_size * config.expert_ffn_hidden_size * config.num_layers
    assert counts.layers - counts.active == product * ((6 - 2) * 2 + (4 - 2))


def test_work_follows_the_shape(tmp_path: Path) -> None:
    shape = MODELS["smoke"]
    make_config(shape).save_pretrained(tmp_path)
    save_model(tmp_path / "other", "llama")  # for its tokenizer
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(tmp_path / "other").save_pretrained(tmp_path)
    description = ModelDescription.load(str(tmp_path), EngineOptions(dtype="bfloat16"))
    costs = model_costs(description, RATES)
    assert costs.flops_per_token == 2 * shape.linear_parameters
    assert costs.head_flops == 2 * shape.vocabulary * shape.hidden
    assert costs.attention_flops == 4 * shape.layers * shape.heads * shape.head_dim
    assert costs.weight_bytes == 2 * (shape.linear_parameters + shape.vocabulary * shape.hidden)
    int8 = model_costs(replace(description, quantization=Quantization.int8), RATES)
    assert int8.weight_bytes == shape.linear_parameters + 2 * shape.vocabulary * shape.hidden
    assert costs.kv_bytes == shape.kv_bytes_per_token
    assert costs.flops_per_second == 1e11
    assert (costs.iteration_seconds, costs.segment_seconds, costs.use_seconds) == (1e-3, 1e-5, 1e-6)
    assert default_costs(description).flops_per_token == costs.flops_per_token


@pytest.mark.parametrize("family", ["deepseek_v3, kimi k2", "gpt_oss", "llama4"])
def test_kinds_of_attention_follow_the_config(tmp_path: Path, family: str) -> None:
    folder = str(save_model(tmp_path, family))
    description = ModelDescription.load(folder, EngineOptions(dtype="float32"))
    config, costs = description.config, model_costs(description, RATES)
    assert sum(kind.kv_bytes for kind in costs.kinds) == costs.kv_bytes
    assert sum(kind.pair_flops for kind in costs.kinds) == costs.attention_flops
    if family.startswith("deepseek"):
        (kind,) = costs.kinds
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        rank, rope = config.kv_lora_rank, config.qk_rope_head_dim
        plain, value = config.qk_nope_head_dim, config.v_head_dim
        assert kind.window is None
        assert kind.kv_bytes == 4 * layers * (rank + rope)
        assert kind.pair_flops == 2 * layers * heads * (rank + rope + rank)
        made = 0.5 * 2 * rank * (plain + value) + 700 * (plain + rope + value)
        pair = 2.0 * layers * heads * (plain + rope + value)
        assert kind.expanding == Expanding(pair, layers * heads * made)
        return
    shown, hidden = costs.kinds
    chunked = family == "llama4"
    size = config.attention_chunk_size if chunked else config.sliding_window
    assert (shown.window, hidden.window) == (None, Window(size, chunked))
    windowed = sum(kind != "full_attention" for kind in config.layer_types)
    assert hidden.pair_flops == 4 * windowed * config.num_attention_heads * config.head_dim
