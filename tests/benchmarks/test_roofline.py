from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks.models import MODELS, ensure_model, make_config
from benchmarks.roofline import Work, count_flops, count_work
from benchmarks.workloads import SPECS, Workload, make_workload


def counted_by_hand(workload: Workload) -> Work:
    """Walk every request token by token; a prefix seen before costs nothing."""
    seen: set[tuple[int, ...]] = set()
    ends: set[tuple[int, ...]] = set()
    fed = pairs = 0
    for prompt, output in zip(workload.prompts, workload.outputs, strict=True):
        for length in range(1, len(prompt) + 1):
            prefix = tuple(prompt[:length])
            if prefix not in seen:
                seen.add(prefix)
                pairs += length
        ends.add(tuple(prompt))
        for _ in range(workload.n):
            for place in range(1, output):
                fed += 1
                pairs += len(prompt) + place
    return Work(sum(map(len, workload.prompts)), len(seen), fed, len(ends) + fed, pairs)


@pytest.mark.parametrize("name", SPECS)
def test_work_against_a_walk(name: str) -> None:
    workload = make_workload(name, 256, 0.12)
    assert count_work(workload) == counted_by_hand(workload)


def test_work_with_equal_prompts_and_prompts_inside_others() -> None:
    prompts = [[1, 2, 3], [1, 2], [1, 2, 3], [4], [1, 2, 5, 6]]
    workload = Workload("odd", prompts, [3, 1, 2, 4, 2], n=2)
    assert count_work(workload) == counted_by_hand(workload)
    assert count_work(workload).distinct_prompt_tokens == 6


def test_flops_of_a_small_forward_against_torchs_counter(tmp_path: Path) -> None:
    """One prompt, one sampled token; torch counts attention without regard to causality."""
    shape, tokens = MODELS["smoke"], 24
    model = AutoModelForCausalLM.from_pretrained(
        ensure_model("smoke", tmp_path), attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.arange(10, 10 + tokens)[None], logits_to_keep=1)
    work = count_work(Workload("one", [list(range(10, 10 + tokens))], [1]))
    assert work.attention_pairs == tokens * (tokens + 1) // 2
    flops = count_flops(work, shape)
    square = flops.attention * tokens**2 // work.attention_pairs
    assert counter.get_total_flops() == flops.linear + square + flops.head


def test_work_in_states_counted_by_hand() -> None:
    """9 of 12 layers have 6 heads, whose states are of 128 x 128 numbers."""
    work = count_work(Workload("two", [[1, 2, 3], [1, 2, 4]], [2, 1]))
    flops = count_flops(work, MODELS["hybrid-shape"])
    assert flops.recurrence == (4 + 1) * 9 * 6 * 128 * 128 * 7
    assert flops.total == flops.linear + flops.attention + flops.recurrence + flops.head
    assert count_flops(work, MODELS["llama-100m"]).recurrence == 0


def test_parameters_of_a_hybrid() -> None:
    """Products and filters, as transformers builds them."""
    shape = MODELS["hybrid-shape"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(make_config(shape))
    sizes = {n: p.numel() for n, p in model.named_parameters() if n.endswith("weight")}
    met = sum(size for n, size in sizes.items() if "proj" in n or "conv1d" in n)
    assert met == shape.linear_parameters


@pytest.mark.parametrize("name", ["smoke", "llama-100m", "qwen-0.5b"])
def test_parameters_of_the_models(name: str) -> None:
    shape = MODELS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(make_config(shape))
    sizes = {n: p.numel() for n, p in model.named_parameters() if n.endswith("weight")}
    assert sum(size for n, size in sizes.items() if "proj" in n) == shape.linear_parameters
    assert sizes["model.embed_tokens.weight"] == shape.hidden * shape.vocabulary
    assert "lm_head.weight" not in sizes


def test_kv_of_the_models() -> None:
    """1 GiB holds 87 thousand tokens of either."""
    assert MODELS["llama-100m"].kv_bytes_per_token == 12_288
    assert MODELS["qwen-0.5b"].kv_bytes_per_token == 12_288
    assert MODELS["hybrid-shape"].kv_bytes_per_token == 3 * 2 * 2 * 128 * 2
