"""From text to a plan: a batch file read, rendered, tokenised and planned.

`python -m benchmarks.planner.text` prints one JSON line. With `--whole` every prompt is tokenised
whole, for comparison.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np

from shoal.config import EngineOptions
from shoal.model.description import ModelDescription
from shoal.planner import make_plan
from shoal.prompts.text_pieces import PieceTokenizer
from shoal.requests.reader import read_job

FLOPS_PER_TOKEN = 2e8
"""Of a model with 100 million weights."""
FLOPS_PER_SECOND = 4e11
"""Of large matrix products on two cores."""
OUTPUT_TOKENS = 32
_CORPUS = Path(__file__).parents[2] / "examples" / "tickets.jsonl"
_SEED = 20_260


def write_job(path: Path, requests: int, shared: int, own: int, *, in_user: bool) -> None:
    """Chats of words from support tickets: `shared` words, the same in all, and `own` words.

    The shared words are the system prompt, or they precede the own ones in the user's message.
    """
    lines = [json.loads(line) for line in _CORPUS.read_text().splitlines()]
    contents = dict.fromkeys(m["content"] for line in lines for m in line["body"]["messages"])
    words = np.array(" ".join(contents).split(" "))
    shared_text = " ".join(np.resize(words, shared))
    random = np.random.default_rng(_SEED)
    with path.open("w") as file:
        for i in range(requests):
            begins = random.integers(0, len(words) - 8, -(-own // 8))
            own_text = " ".join(" ".join(words[begin : begin + 8]) for begin in begins)
            user = {"role": "user", "content": f"{own_text} {i}"}
            system = [{"role": "system", "content": shared_text}]
            if in_user or not shared:
                system, user["content"] = [], f"{shared_text} {user['content']}"
            body = {"model": "*", "messages": [*system, user], "max_tokens": OUTPUT_TOKENS}
            line = {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps(line | {"body": body}) + "\n")


def measure(path: Path, model: str | None, *, whole: bool) -> dict[str, float]:
    """Seconds of reading (with rendering and tokenising) and planning, beside the predicted run."""
    description = ModelDescription.load(model, EngineOptions.create())
    rejected: list[str] = []
    pieces = patch.object(PieceTokenizer, "create", return_value=None) if whole else nullcontext()
    began = time.perf_counter()
    with pieces:
        job = read_job(
            path,
            description,
            capacity_tokens=1 << 40,
            names=["*"],
            reject=lambda line, _, error: rejected.append(f"line {line + 1}: {error}"),
        )
    job.index.close()
    if rejected:
        raise SystemExit(rejected[0])
    read = time.perf_counter()
    plan = make_plan(job.table)
    ended = time.perf_counter()
    tokens = plan.computed_prompt_tokens + OUTPUT_TOKENS * len(job.table)
    run = tokens * FLOPS_PER_TOKEN / FLOPS_PER_SECOND
    return {
        "requests": len(job.table),
        "bytes": path.stat().st_size,
        "tokens": len(job.table.tokens),
        "saved": plan.saved_prompt_tokens,
        "read_seconds": round(read - began, 2),
        "plan_seconds": round(ended - read, 2),
        "seconds": round(ended - began, 2),
        "predicted_run_seconds": round(run, 1),
        "share_of_run": round((ended - began) / run, 5),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the job, measure, print the line."""
    parser = argparse.ArgumentParser(description="Measure a job from text to its plan.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--shared", type=int, default=560, help="words that all prompts share")
    parser.add_argument("--own", type=int, default=24, help="words of each prompt alone")
    parser.add_argument("--in-user", action="store_true", help="shared words in user's message")
    parser.add_argument("--whole", action="store_true", help="tokenise every prompt whole")
    parser.add_argument("--model", help="folder or Hub id whose tokenizer and template are used")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.jsonl"
        write_job(path, chosen.requests, chosen.shared, chosen.own, in_user=chosen.in_user)
        mode = {"whole": chosen.whole, "in_user": chosen.in_user}
        print(json.dumps(mode | measure(path, chosen.model, whole=chosen.whole)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
