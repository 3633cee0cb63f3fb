"""What `--quantization int8` brings, and what it costs: one JSON line.

The same model with and without it takes turns on a workload. The accuracy is that of the bundled
model on `examples/tickets.jsonl`, exact answers only, with and without it.

    python -m benchmarks.int8 --workload shared-2k --rounds 3
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.__main__ import DEFAULT_MODEL, RESULTS, append_record, positive
from benchmarks.agreement import UnequalWorkError
from benchmarks.models import MODELS
from benchmarks.peers.client import INT8, ROOT, PeerError
from benchmarks.runner import Bench, cpu_name, records_name, rounded, say
from benchmarks.workloads import SPECS
from shoal import LLM, SamplingParams

EXAMPLES = ROOT / "examples"


def main() -> int:
    """Run what is asked for; 0, or 1 if an engine failed or did other work."""
    parser = argparse.ArgumentParser("python -m benchmarks.int8", description=__doc__)
    add = parser.add_argument
    add("--workload", choices=list(SPECS), default="shared-2k")
    add("--model", choices=list(MODELS), default=DEFAULT_MODEL)
    add("--rounds", type=positive, default=3)
    add("--scale", type=float, default=1.0, help="smaller counts and lengths, for smoke tests")
    add("--folder", type=Path, default=ROOT / ".bench", help="models, logs, caches")
    add("--results", type=Path, help="where the record goes (benchmarks/results; none if scaled)")
    chosen = parser.parse_args()
    try:
        with Bench(chosen.model, [INT8], chosen.folder, chosen.rounds) as bench:
            record = bench.run(chosen.workload, chosen.scale)
    except (PeerError, UnequalWorkError) as error:
        say(f"error: {error}")
        return 1
    answers = {name: tickets(name, chosen.scale) for name in ("none", "int8")}
    record["speedup"] = rounded(1 / record["ratios"][INT8])
    record["accuracy"] = rounded({name: accuracy(given) for name, given in answers.items()})
    same = sum(a == b for a, b in zip(answers["none"], answers["int8"], strict=True))
    record["same_answers"] = rounded(same / len(answers["none"]))
    line = json.dumps(record)
    print(line, flush=True)
    results = chosen.results or (RESULTS if chosen.scale == 1 else None)
    if results:
        append_record(results / f"int8-{records_name(cpu_name())}", line)
    return 0


def tickets(quantization: str, scale: float) -> list[str | None]:
    """The bundled model's answers to the example tickets, or to the first of them."""
    lines = (EXAMPLES / "tickets.jsonl").read_text().splitlines()
    lines = lines[: max(1, round(scale * len(lines)))]
    bodies = [json.loads(line)["body"] for line in lines]
    llm = LLM(device="cpu", quantization=quantization)
    params = [SamplingParams(temperature=0.0, max_tokens=body["max_tokens"]) for body in bodies]
    found = llm.chat([body["messages"] for body in bodies], params, use_tqdm=False)
    llm.close()
    return [completion.outputs[0].text for completion in found]


def accuracy(given: list[str | None]) -> float:
    """Share of the answers, to the first tickets, that are exactly right."""
    lines = (EXAMPLES / "answers.jsonl").read_text().splitlines()
    right = [json.loads(line)["answer"] for line in lines]
    return sum(a == b for a, b in zip(given, right[: len(given)], strict=True)) / len(given)


if __name__ == "__main__":
    sys.exit(main())
