"""A reranker's scores of query-document pairs beside transformers and vLLM: one JSON line.

Each query has a document after the other behind the same instruction, so pairs share beginnings.
The engines run in processes of their own, in turn, and their scores are compared.

    python -m benchmarks.pooling --model llama-100m --peers transformers vllm --rounds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.__main__ import DEFAULT_MODEL, RESULTS, append_record, positive
from benchmarks.models import MAX_MODEL_LEN, MODELS, make_config, make_tokenizer
from benchmarks.peers.client import ROOT, Worker
from benchmarks.runner import commit, cpu_name, records_name, rounded, say
from benchmarks.workloads import Group, Spec, Workload, make_generation

PAIRS = Spec(
    "a query's documents behind one instruction", (Group(1, 50, 64, (60, 300), 1, 20, 48),)
)
"""64 tokens of instruction, 20 queries of 48, each with 50 documents."""
ENGINES = {"transformers": "transformers_pooling", "vllm": "vllm_pooling"}
KV_GIB = 1


def main() -> int:
    """Run what is asked for; 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.pooling", description=__doc__)
    add = parser.add_argument
    add("--model", choices=list(MODELS), default=DEFAULT_MODEL)
    add("--peers", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    add("--rounds", type=positive, default=3)
    add("--threads", type=positive, default=2)
    add("--scale", type=float, default=1.0, help="smaller counts and lengths, for smoke tests")
    add("--folder", type=Path, default=ROOT / ".bench", help="where the model is made")
    add("--results", type=Path, help="where the record goes (benchmarks/results; none if scaled)")
    chosen = parser.parse_args()
    workload = pairs(MODELS[chosen.model].vocabulary, chosen.scale)
    model = ensure_reranker(chosen.model, chosen.folder / "models")
    versions, seconds, scores = measured(chosen, model, workload)
    ours = np.array(scores["shoal"])
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    record = {
        "workload": "reranker",
        "model": chosen.model,
        "commit": commit(),
        "cpu": cpu_name(),
        "versions": versions,
        "pairs": len(workload.prompts),
        "tokens": sum(map(len, workload.prompts)),
        "seconds": rounded(seconds),
        "times": rounded({name: medians[name] / medians["shoal"] for name in chosen.peers}),
        "scores_differ": rounded(
            {name: float(np.abs(ours - scores[name]).max()) for name in chosen.peers}
        ),
    }
    line = json.dumps(record)
    print(line, flush=True)
    results = chosen.results or (RESULTS if chosen.scale == 1 else None)
    if results:
        append_record(results / f"pooling-{records_name(cpu_name())}", line)
    return 0


def measured(
    chosen: argparse.Namespace, model: Path, workload: Workload
) -> tuple[dict[str, dict[str, str]], dict[str, list[float]], dict[str, list[float]]]:
    """By engine: its versions, the seconds of each round, and the scores of the last."""
    engines = {"shoal": "shoal_pooling"} | {name: ENGINES[name] for name in chosen.peers}
    versions, scores = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    warm_up = pairs(MODELS[chosen.model].vocabulary, 0.1, seed=1)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(engine, chosen.folder, chosen.threads))
            for name, engine in engines.items()
        }
        for name, worker in workers.items():
            versions[name] = worker.load(model, KV_GIB, MAX_MODEL_LEN)
            worker.run(warm_up)
        for number in range(chosen.rounds):
            for name, worker in workers.items():
                result = worker.run(workload)
                seconds[name].append(result.seconds)
                scores[name] = [score for score, _ in result.scores]
                say(f"round {number + 1}: {name} {result.seconds:.2f} s")
    return versions, seconds, scores


def pairs(vocabulary: int, scale: float, seed: int = 20_260) -> Workload:
    """Prompts of pairs, shuffled; nothing is generated."""
    made = make_generation("reranker", PAIRS, vocabulary, scale, seed)
    return Workload("reranker", made.prompts, [], starts=[0] * len(made.prompts))


def ensure_reranker(name: str, folder: Path) -> Path:
    """The folder of a model of that shape with a head of one class, made on first use."""
    import torch
    from transformers import AutoModelForSequenceClassification

    path = folder / f"{name}-reranker"
    if (path / "complete").exists():
        return path
    shape = MODELS[name]
    config = make_config(shape)
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    make_tokenizer(shape.vocabulary).save_pretrained(path)
    (path / "complete").touch()
    return path


if __name__ == "__main__":
    sys.exit(main())
