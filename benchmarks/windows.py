"""What bounding KV by windows gives: peak of KV, and time, with the bound and without, in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.models import MAX_MODEL_LEN, MODELS, ensure_model
from benchmarks.peers.client import ROOT
from benchmarks.workloads import WINDOW_SPECS, make_workload


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser("python -m benchmarks.windows", description=__doc__)
    parser.add_argument(
        "--workload", choices=[n for n in WINDOW_SPECS if MODELS[n].window], default="gemma-shape"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--kv-memory", default="1GiB")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    chosen = parser.parse_args()
    model = ensure_model(chosen.workload, chosen.folder / "models")
    workload = make_workload(chosen.workload, MODELS[chosen.workload].vocabulary, chosen.scale)

    from shoal import LLM, SamplingParams

    params = [
        SamplingParams(temperature=0.0, max_tokens=o, ignore_eos=True) for o in workload.outputs
    ]
    record: dict[str, Any] = {"workload": chosen.workload, "kv_memory": chosen.kv_memory}
    seconds: dict[str, list[float]] = {"bounded": [], "whole": []}
    for _ in range(chosen.rounds):
        for name in seconds:
            llm = LLM(
                str(model),
                dtype="bfloat16",
                kv_memory=chosen.kv_memory,
                max_model_len=MAX_MODEL_LEN,
                disable_hybrid_kv_cache_manager=name == "whole",
            )
            begun = time.perf_counter()
            llm.generate(workload.prompts, params, use_tqdm=False)
            seconds[name].append(time.perf_counter() - begun)
            run = llm.last_run
            record[name] = {
                "peak_kv_bytes": run.peak_kv_bytes,
                "kv_peak_bytes_forecast": run.kv_peak_bytes_forecast,
                "preemptions": run.preemptions,
                "iterations": run.iterations,
            }
            llm.close()
    for name, found in seconds.items():
        middle = statistics.median(found)
        record[name] |= {"seconds": found, "tokens_per_second": workload.counted_tokens / middle}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
