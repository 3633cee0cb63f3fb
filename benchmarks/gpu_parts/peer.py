"""transformers' continuous batching on the same weights, an outside peer.

Written for transformers 5.17: `model.generate_batch`. It is slow without a flash-attention package
(its attention then masks every request's keys for every query), so it gets few requests.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.workloads import Workload
from shoal.model.hook import ATTENTION_NAME

NAME = "transformers"


def run_peer(
    module: Any, workload: Workload, warm_up: Workload, limits: Mapping[str, float | int]
) -> tuple[float, list[list[int]]]:
    """Seconds, and the generated ids per request; the module's attention is as before at the end.

    Args:
        module: a transformers causal language model, in the memory of its device.
        workload: greedy, one choice, answers of one length.
        warm_up: the same with other tokens, run first.
        limits: fields of `ContinuousBatchingConfig`, of which this version's are used.
    """
    (length,) = set(workload.outputs)
    generation = GenerationConfig(
        max_new_tokens=length, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    arguments = _arguments(generation, limits)
    module.set_attn_implementation("sdpa")
    try:
        module.generate_batch(warm_up.prompts, **arguments)
        _synchronize()
        began = time.perf_counter()
        found = module.generate_batch(workload.prompts, **arguments)
        _synchronize()
        seconds = time.perf_counter() - began
    finally:
        module.destroy_cached_continuous_batching_manager()
        module.set_attn_implementation(ATTENTION_NAME)
    if len(found) != len(workload.prompts):
        raise RuntimeError(f"{len(found)} answers to {len(workload.prompts)} requests")
    return seconds, _in_order(found, workload)


def _arguments(generation: GenerationConfig, limits: Mapping[str, float | int]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
    wanted: dict[str, Any] = {name: value for name, value in limits.items() if name in known}
    if "auto_switch_to_flash" in known:
        # Looking for a kernel on the network would only waste time where there is none.
        wanted["auto_switch_to_flash"] = importlib.util.find_spec("flash_attn") is not None
    return {
        "generation_config": generation,
        "continuous_batching_config": ContinuousBatchingConfig(**wanted),
        "persistent_manager": True,
        "progress_bar": False,
    }


def _in_order(found: dict[str, Any], workload: Workload) -> list[list[int]]:
    """The answers by prompt: their order is not promised."""
    by_prompt = {tuple(answer.prompt_ids): answer.generated_tokens for answer in found.values()}
    return [list(by_prompt[tuple(prompt)]) for prompt in workload.prompts]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
