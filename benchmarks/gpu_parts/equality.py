"""Greedy float32 tokens on the device: ours under every sharing against transformers' generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts.clock import Deadline
from benchmarks.gpu_parts.contenders import make_table
from benchmarks.gpu_parts.model import describe, made_model, random_module
from benchmarks.gpu_parts.records import Recorder
from benchmarks.models import ModelShape
from benchmarks.policies.run import Limits, run_lru, unshared_plan
from benchmarks.runner import say
from benchmarks.workloads import Workload
from shoal.config import EngineOptions, OrderOption, Sharing
from shoal.engine.engine import Engine
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.model.load import LoadedModel
from shoal.scheduler import BLOCK_SIZE

SHAPES = {
    "random-llama": ModelShape("Llama", 256, 4, 8, 2, 512, 1024),
    "random-qwen2": ModelShape("Qwen2", 448, 3, 7, 1, 512, 1024),
    "random-llama-128": ModelShape("Llama", 512, 2, 4, 4, 512, 1024),
}
"""Heads of 32, 64 and 128 numbers; 4, 7 and 1 query heads per KV head."""
INITIALIZER_RANGE = 0.3
"""Large, so that logits lie apart and rounding does not decide."""
NEW_TOKENS = 24
TOKEN_BUDGET = 128
NUM_BLOCKS = 96


@dataclass(frozen=True)
class Answers:
    """What generate gave, and how sure it was.

    Attributes:
        ids: per prompt.
        margins: per prompt, how far the chosen logit lay above the next at every step.
    """

    ids: list[list[int]]
    margins: list[list[float]]


def check_equality(
    models: Mapping[str, ModelShape],
    device: torch.device,
    recorder: Recorder,
    deadline: Deadline,
    fuse: bool,
) -> None:
    """A record per model and way to run it, until the time is over. `fuse`: see `random_model`."""
    for name, shape in models.items():
        if recorder.knows("equality", model=name, way="lru"):
            continue
        if deadline.left == 0:
            recorder.add("equality", skipped=[name], reason="no time left")
            continue
        try:
            _check_model(name, shape, device, recorder, fuse)
        except Exception as error:
            recorder.add("equality", model=name, error=f"{type(error).__name__}: {error}"[:500])


def _check_model(
    name: str, shape: ModelShape, device: torch.device, recorder: Recorder, fuse: bool
) -> None:
    description = describe(name, shape, torch.float32, device, initializer_range=INITIALIZER_RANGE)
    workload = _prompts(shape.vocabulary)
    oracle = random_module(description.config, torch.float32, device, "eager")
    expected = _generate(oracle, workload, device)

    def make() -> torch.nn.Module:
        module = random_module(description.config, torch.float32, device, ATTENTION_NAME)
        module.load_state_dict(oracle.state_dict())
        return module

    engine = _engine(description, made_model(make, description, fuse))
    for sharing in Sharing:
        found = _ours(engine, workload, sharing)
        recorder.add("equality", model=name, way=sharing.value, **_compare(found, expected))
    found = _baseline(engine, workload)
    recorder.add("equality", model=name, way="lru", **_compare(found, expected))
    say(f"equality: {name} done")


def _engine(description: ModelDescription, model: LoadedModel) -> Engine:
    options = EngineOptions(
        kv_memory=str(NUM_BLOCKS * BLOCK_SIZE * description.kv_bytes_per_token),
        token_budget=TOKEN_BUDGET,
    )
    return Engine(description, options, model)


def _ours(engine: Engine, workload: Workload, sharing: Sharing) -> list[list[int]]:
    engine.options = replace(engine.options, sharing=sharing, order=OrderOption.ratio)
    found = [c for finished in engine.run(make_table(workload)) for c in finished]
    found.sort(key=lambda completion: completion.request_index)
    failed = next((c.error for c in found if c.error is not None), None)
    if failed is not None:
        raise failed
    return [list(completion.choices[0].token_ids) for completion in found]


def _baseline(engine: Engine, workload: Workload) -> list[list[int]]:
    table = make_table(workload)
    plan = unshared_plan(table)
    limits = Limits(TOKEN_BUDGET, 16, engine.machine.num_blocks, BLOCK_SIZE)
    return run_lru(table, plan, engine.executor(table, plan), limits).token_ids


@torch.inference_mode()
def _generate(module: Any, workload: Workload, device: torch.device) -> Answers:
    """transformers, one prompt at a time."""
    ids, margins = [], []
    for prompt in workload.prompts:
        out = module.generate(
            torch.tensor([prompt], device=device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids.append(out.sequences[0, len(prompt) :].tolist())
        best = torch.stack([logits[0].topk(2).values for logits in out.logits])
        margins.append((best[:, 0] - best[:, 1]).tolist())
    return Answers(ids, margins)


def _compare(found: list[list[int]], expected: Answers) -> dict[str, Any]:
    """How many answers are equal; of those that are not, the surest logit that was missed."""
    missed = []
    for ours, theirs, margins in zip(found, expected.ids, expected.margins, strict=True):
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            missed.append(margins[place])
    return {
        "equal": len(found) - len(missed),
        "of": len(found),
        "largest_margin_missed": max(missed, default=0.0),
    }


def _prompts(vocabulary: int) -> Workload:
    """Two levels of prefixes, some prompts equal and some the beginning of others; shuffled."""
    rng = np.random.default_rng(7)

    def tokens(count: int) -> list[int]:
        ids: list[int] = rng.integers(10, vocabulary, count).tolist()
        return ids

    prompts = [tokens(5), tokens(1), tokens(90)]
    for _ in range(2):
        top = tokens(int(rng.integers(70, 150)))
        prompts.append(top)
        for _ in range(2):
            inner = top + tokens(int(rng.integers(3, 70)))
            prompts += [inner, inner]
            prompts += [inner + tokens(int(rng.integers(1, 60))) for _ in range(3)]
    order = rng.permutation(len(prompts)).tolist()
    return Workload("equality", [prompts[i] for i in order], [NEW_TOKENS] * len(prompts))
