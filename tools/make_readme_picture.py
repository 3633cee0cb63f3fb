"""Draw the README's pictures from a real run of `examples/tickets.jsonl`.

python tools/make_readme_picture.py --output docs/images
"""

import argparse
from dataclasses import replace
from pathlib import Path

from shoal.config import EngineOptions
from shoal.engine.engine import Engine, Run
from shoal.errors import InvalidRequestError
from shoal.model.description import ModelDescription
from shoal.report.figures import plan_figure, svg, token_batches_figure
from shoal.requests import JobInput, read_job

ROOT = Path(__file__).resolve().parent.parent
TOKEN_BUDGET = 256
KV_TOKENS = 12_000
"""Enough for a hundred iterations, full ones as long as there are prompts to compute."""


def run_examples(model: str | None, tickets: Path) -> tuple[Engine, JobInput, Run]:
    """Run the tickets to the end; `model` None is the bundled one."""
    options = EngineOptions(token_budget=TOKEN_BUDGET)
    description = ModelDescription.load(model, options)
    options = replace(options, kv_memory=f"{KV_TOKENS * description.kv_bytes_per_token}B")
    engine = Engine(description, options)
    job = read_job(
        tickets,
        description,
        capacity_tokens=engine.machine.kv_tokens,
        names=["*"],
        reject=_refuse,
    )
    run = engine.run(job.table)
    for _ in run:
        pass
    return engine, job, run


def _refuse(line: int, custom_id: str | None, error: InvalidRequestError) -> None:
    raise SystemExit(f"line {line + 1} ({custom_id}) cannot run: {error}")


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description="Draw the README's pictures from a real run.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--tickets", type=Path, default=ROOT / "examples" / "tickets.jsonl")
    parser.add_argument("--model", help="a folder or Hub id; the bundled model if not given")
    arguments = parser.parse_args()
    engine, job, run = run_examples(arguments.model, arguments.tickets)
    pictures = {
        "plan": plan_figure(run.plan, job.table.lengths),
        "token_batches": token_batches_figure(
            run.trace, token_budget=TOKEN_BUDGET, num_blocks=engine.machine.num_blocks
        ),
    }
    job.index.close()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        path = arguments.output / f"{name}.svg"
        path.write_bytes(svg(figure))
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
