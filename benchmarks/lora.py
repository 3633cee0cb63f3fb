"""What adapters cost: one job over 1, 16 and 256 of them, beside the model alone: one JSON line.

The same requests run with no adapter, and spread evenly over so many, in turn. Adapters are random,
of all linear layers. Beside them: one merged model after another, each loaded for its share of the
requests. A merged model has the shape of its base, so the base stands in for it; two are measured,
and the others take as long.

    python -m benchmarks.lora --adapters 1 16 256 --rounds 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.__main__ import DEFAULT_MODEL, append_record, positive
from benchmarks.models import MODELS, ModelShape, ensure_model
from benchmarks.peers.client import ROOT
from benchmarks.runner import commit, cpu_name, records_name, rounded, say
from shoal import LLM, LoRARequest, SamplingParams

MERGED_MEASURED = 2
MOST_MERGED = 16
"""Adapters up to which merged models are compared: beyond, loading them is all there is."""


def main() -> int:
    """Run what is asked for; 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.lora", description=__doc__)
    add = parser.add_argument
    add("--model", choices=list(MODELS), default=DEFAULT_MODEL)
    add("--adapters", type=positive, nargs="+", default=[1, 16, 256])
    add("--rank", type=positive, default=16)
    add("--requests", type=positive, default=512)
    add("--prompt", type=positive, default=32, help="tokens of each prompt, which share nothing")
    add("--output", type=positive, default=32, help="tokens generated for each request")
    add("--rounds", type=positive, default=2)
    add("--prepare", action="store_true", help="make the files and end")
    add("--folder", type=Path, default=ROOT / ".bench", help="where model and adapters are made")
    add("--results", type=Path, help="where the record goes; nowhere if not given")
    chosen = parser.parse_args()
    shape = MODELS[chosen.model]
    model = ensure_model(chosen.model, chosen.folder / "models")
    folder = chosen.folder / "adapters" / f"{chosen.model}-r{chosen.rank}"
    adapters = make_adapters(folder, shape, chosen.rank, max(chosen.adapters))
    if chosen.prepare:
        return 0
    bench = LoraBench(model, adapters, shape.vocabulary, chosen)
    seconds = bench.timed(chosen.adapters, chosen.rounds)
    base = statistics.median(seconds["base"])
    few = [count for count in chosen.adapters if count <= MOST_MERGED]
    record = {
        "benchmark": "lora",
        "model": chosen.model,
        "commit": commit(),
        "cpu": cpu_name(),
        "rank": chosen.rank,
        "requests": chosen.requests,
        "tokens": [chosen.prompt, chosen.output],
        "seconds": rounded(seconds),
        "cost": rounded(
            {name: statistics.median(found) / base - 1 for name, found in seconds.items()}
        ),
        "merged_seconds": rounded({str(count): bench.merged(count) for count in few}),
    }
    line = json.dumps(record)
    print(line, flush=True)
    if chosen.results:
        append_record(chosen.results / f"lora-{records_name(cpu_name())}", line)
    return 0


class LoraBench:
    """The requests, and the ways to run them."""

    def __init__(
        self, model: Path, adapters: list[LoRARequest], vocabulary: int, chosen: argparse.Namespace
    ) -> None:
        self._model, self._adapters = model, adapters
        random = np.random.default_rng(0)
        tokens = random.integers(10, vocabulary, (chosen.requests, chosen.prompt))
        self._prompts = tokens.tolist()
        self._params = SamplingParams(temperature=0, max_tokens=chosen.output, ignore_eos=True)

    def timed(self, counts: list[int], rounds: int) -> dict[str, list[float]]:
        """Seconds of each round, with each number of adapters."""
        total = len(self._prompts)
        asked: dict[str, list[LoRARequest] | None] = {"base": None}
        asked |= {str(n): [self._adapters[i % n] for i in range(total)] for n in counts}
        seconds: dict[str, list[float]] = {name: [] for name in asked}
        with closing(self._llm(enable_lora=True)) as llm:
            llm.generate(self._prompts[:8], self._params, use_tqdm=False)
            for number in range(rounds):
                for name, loras in asked.items():
                    taken = _seconds(lambda loras=loras: self._run(llm, self._prompts, loras))
                    seconds[name].append(taken)
                    say(f"round {number + 1}: {name} {taken:.2f} s")
        return seconds

    def merged(self, count: int) -> float:
        """Seconds of so many merged models one after another, each with its share."""

        def one(number: int) -> None:
            with closing(self._llm()) as llm:
                self._run(llm, self._prompts[number::count], None)

        measured = min(count, MERGED_MEASURED)
        taken = _seconds(lambda: [one(number) for number in range(measured)])
        say(f"{measured} of {count} merged models: {taken:.2f} s")
        return taken * count / measured

    def _llm(self, **options: bool) -> LLM:
        return LLM(str(self._model), max_num_batched_tokens=1024, **options)

    def _run(self, llm: LLM, prompts: list[list[int]], loras: list[LoRARequest] | None) -> None:
        outputs = llm.generate(prompts, self._params, use_tqdm=False, lora_request=loras)
        assert all(len(out.outputs[0].token_ids) == self._params.max_tokens for out in outputs)


def make_adapters(folder: Path, shape: ModelShape, rank: int, count: int) -> list[LoRARequest]:
    """So many random adapters of a Llama, in the format peft saves; made on first use."""
    kv, wide = shape.kv_heads * shape.head_dim, shape.intermediate
    attention = {"q_proj": (shape.hidden, shape.hidden), "k_proj": (shape.hidden, kv)}
    attention |= {"v_proj": (shape.hidden, kv), "o_proj": (shape.hidden, shape.hidden)}
    mlp = {"gate_proj": (shape.hidden, wide), "up_proj": (shape.hidden, wide)}
    mlp |= {"down_proj": (wide, shape.hidden)}
    layers = {f"self_attn.{name}": sizes for name, sizes in attention.items()}
    layers |= {f"mlp.{name}": sizes for name, sizes in mlp.items()}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    config["target_modules"] = [*attention, *mlp]
    found = []
    for number in range(count):
        path = folder / str(number)
        found.append(LoRARequest(f"adapter-{number}", number + 1, str(path)))
        if (path / "adapter_config.json").exists():
            continue
        path.mkdir(parents=True, exist_ok=True)
        random = torch.Generator().manual_seed(number)
        tensors = {}
        for layer in range(shape.layers):
            for name, (inputs, outputs) in layers.items():
                where = f"base_model.model.model.layers.{layer}.{name}"
                sizes = {"A": (rank, inputs), "B": (outputs, rank)}
                for matrix, size in sizes.items():
                    weight = torch.randn(size, generator=random).mul_(0.02)
                    tensors[f"{where}.lora_{matrix}.weight"] = weight.bfloat16()
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config))
    return found


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
