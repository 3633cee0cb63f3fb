"""What a JSON schema for every request costs, and what it brings: one JSON line.

The same engine runs a workload with and without a schema of 30 fields in turn, at temperature 1.
All outputs have the workload's length, so both do the same work. The accuracy is that of the
bundled model on `examples/tickets.jsonl`, exact answers only: without a schema, and with one that
has the keys that each ticket's policy asks for.

    python -m benchmarks.structured --workload shared-2k --rounds 3
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.__main__ import DEFAULT_MODEL, RESULTS, append_record, positive
from benchmarks.int8 import EXAMPLES, accuracy
from benchmarks.models import MODELS, ensure_model
from benchmarks.peers.client import ROOT
from benchmarks.runner import commit, cpu_name, records_name, rounded, say
from benchmarks.workloads import SPECS, Workload, make_workload
from shoal import LLM, SamplingParams, StructuredOutputsParams

NUM_FIELDS = 30


def main() -> int:
    """Run what is asked for; 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.structured", description=__doc__)
    add = parser.add_argument
    add("--workload", choices=list(SPECS), default="shared-2k")
    add("--model", choices=list(MODELS), default=DEFAULT_MODEL)
    add("--rounds", type=positive, default=3)
    add("--scale", type=float, default=1.0, help="smaller counts and lengths, for smoke tests")
    add("--folder", type=Path, default=ROOT / ".bench", help="where the model is made")
    add("--results", type=Path, help="where the record goes (benchmarks/results; none if scaled)")
    chosen = parser.parse_args()
    workload = make_workload(chosen.workload, MODELS[chosen.model].vocabulary, chosen.scale)
    seconds = timed(ensure_model(chosen.model, chosen.folder / "models"), workload, chosen.rounds)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    exact = {name: accuracy(tickets(name == "schema", chosen.scale)) for name in medians}
    record = {
        "workload": chosen.workload,
        "model": chosen.model,
        "commit": commit(),
        "cpu": cpu_name(),
        "fields": NUM_FIELDS,
        "seconds": rounded(seconds),
        "cost": rounded(medians["schema"] / medians["none"] - 1),
        "accuracy": rounded(exact),
    }
    line = json.dumps(record)
    print(line, flush=True)
    results = chosen.results or (RESULTS if chosen.scale == 1 else None)
    if results:
        append_record(results / f"structured-{records_name(cpu_name())}", line)
    return 0


def schema_of_fields() -> dict[str, Any]:
    """An object of strings, integers and choices."""
    kinds = [{"type": "string"}, {"type": "integer"}, {"enum": ["red", "green", "blue"]}]
    fields = {f"field_{i}": kinds[i % len(kinds)] for i in range(NUM_FIELDS)}
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def timed(model: Path, workload: Workload, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, without a schema and with one, in turn."""
    asked = {
        "none": None,
        "schema": StructuredOutputsParams(json=schema_of_fields(), disable_any_whitespace=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    with closing(LLM(str(model), device="cpu")) as llm:
        for number in range(rounds + 1):
            for name, structure in asked.items():
                params = [
                    SamplingParams(
                        temperature=1.0,
                        seed=0,
                        max_tokens=tokens,
                        ignore_eos=True,
                        structured_outputs=structure,
                    )
                    for tokens in workload.outputs
                ]
                llm.generate(workload.prompts, params, use_tqdm=False)
                assert llm.last_run is not None
                took = llm.last_run.seconds.run
                say(f"{name}, {f'round {number}' if number else 'to warm up'}: {took:.2f} s")
                if number:
                    seconds[name].append(took)
    return seconds


def tickets(with_schema: bool, scale: float) -> list[str | None]:
    """The bundled model's answers to the example tickets, or to the first of them."""
    lines = (EXAMPLES / "tickets.jsonl").read_text().splitlines()
    lines = lines[: max(1, round(scale * len(lines)))]
    bodies = [json.loads(line)["body"] for line in lines]
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=body["max_tokens"],
            structured_outputs=_policy_schema(body) if with_schema else None,
        )
        for body in bodies
    ]
    with closing(LLM(device="cpu")) as llm:
        found = llm.chat([body["messages"] for body in bodies], params, use_tqdm=False)
    return [completion.outputs[0].text for completion in found]


def _policy_schema(body: dict[str, Any]) -> StructuredOutputsParams:
    """The keys that a ticket's policy asks for, in its order."""
    policy = body["messages"][0]["content"]
    form = re.findall(r"^Answer: (\{.*\})$", policy, re.MULTILINE)[-1]
    keys = re.findall(r'"(\w+)":', form)
    known = {
        "order": {"type": "string", "pattern": "^[A-Z]-[0-9]{5}$"},
        "priority": {"enum": ["low", "normal", "high", "urgent"]},
    }
    schema = {
        "type": "object",
        "properties": {key: known.get(key, {"type": "string"}) for key in keys},
        "required": keys,
        "additionalProperties": False,
    }
    return StructuredOutputsParams(json=schema, disable_any_whitespace=True)


if __name__ == "__main__":
    sys.exit(main())
