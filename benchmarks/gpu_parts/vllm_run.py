"""vLLM on the GPU, on the same workload and shape: `python3 -m benchmarks.gpu_parts.vllm_run`.

In an environment of its own (`benchmarks/peers/pack_vllm.py`), so in a process of its own; Shoal is
not imported. Weights are random, made by vLLM. Prints one JSON line, and appends it to the records.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.models import LLAMA_1B, LLAMA_8B, MAX_MODEL_LEN, make_config
from benchmarks.workloads import Workload, make_workload

SHAPES = {"llama-8b": LLAMA_8B, "llama-1b": LLAMA_1B}
FILE = "gpu.jsonl"


def main() -> None:
    """Load, run the workload once small and once whole, print."""
    chosen = _parser().parse_args()
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    began = time.perf_counter()
    llm = _load(chosen)
    loaded = time.perf_counter() - began
    shape = SHAPES[chosen.model]
    small = make_workload(chosen.workload, shape.vocabulary, 0.25, seed=1)
    whole = make_workload(chosen.workload, shape.vocabulary, times=chosen.times)
    _run(llm, small)
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not empty its prefix cache")
    workload = whole.sorted() if chosen.sorted else whole
    seconds = _run(llm, workload)
    record = {
        "part": "vllm",
        "workload": chosen.workload,
        "times": chosen.times,
        "sorted": chosen.sorted,
        "model": chosen.model,
        "shape": asdict(shape),
        "eager": chosen.eager,
        "seconds": seconds,
        "loading_seconds": loaded,
        "tokens": whole.generated_tokens,
        "tokens_per_second": whole.generated_tokens / seconds,
        "versions": {name: version(name) for name in ("vllm", "torch", "transformers")},
    }
    line = json.dumps(record)
    print(line, flush=True)
    if chosen.results:
        with (chosen.results / FILE).open("a") as file:
            file.write(line + "\n")


def _load(chosen: argparse.Namespace) -> Any:
    from vllm import LLM

    with tempfile.TemporaryDirectory() as folder:
        make_config(SHAPES[chosen.model]).save_pretrained(folder)
        return LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enable_prefix_caching=True,
            max_model_len=MAX_MODEL_LEN,
            enforce_eager=chosen.eager,
        )


def _run(llm: Any, workload: Workload) -> float:
    from vllm import SamplingParams

    inputs = [{"prompt_token_ids": prompt} for prompt in workload.prompts]
    params = [
        SamplingParams(
            n=workload.n,
            temperature=workload.temperature,
            max_tokens=output,
            ignore_eos=True,
            detokenize=False,
        )
        for output in workload.outputs
    ]
    began = time.perf_counter()
    found = llm.generate(inputs, params, use_tqdm=False)
    seconds = time.perf_counter() - began
    made = sum(len(choice.token_ids) for answer in found for choice in answer.outputs)
    if made != workload.generated_tokens:
        raise RuntimeError(f"{made} tokens instead of {workload.generated_tokens}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python3 -m benchmarks.gpu_parts.vllm_run", description=__doc__
    )
    add = parser.add_argument
    add("--workload", default="shared-2k")
    add("--times", type=int, default=8, help="as many groups as of the CPU's workload")
    add("--model", choices=SHAPES, default="llama-8b")
    add("--sorted", action="store_true", help="give the requests in the order of their tokens")
    add("--eager", action="store_true", help="no torch.compile and no graphs: it loads sooner")
    add("--results", type=Path, help=f"folder of {FILE}")
    return parser


if __name__ == "__main__":
    main()
