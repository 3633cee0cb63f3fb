"""What the quick commands do not import; imports are most of their time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli import app

EXAMPLE = Path(__file__).parents[1] / "examples" / "tickets.jsonl"
PROGRAM = """
import sys
from shoal.cli import app
app(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
ROOMS = ("attention", "cuda", "devices", "engine", "executor", "sampling", "tensor_parallel")
NOT_TO_PLAN = [f"shoal.{room}" for room in ROOMS]
NOT_TO_PLAN += ["shoal.llm.llm", "shoal.model.load", "shoal.model.hook", "matplotlib"]
NOT_TO_PLAN += ["transformers.modeling_utils", "transformers.models.llama.modeling_llama"]
NOT_TO_PLAN += ["transformers.activations", "torch._dynamo", "torch.distributed.tensor"]


def imported(*arguments: object) -> set[str]:
    """The modules that a command has imported when it ends."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "command",
    [["--help"], ["run", "--help"], ["plan", "--help"], ["eval", "--help"], ["serve", "--help"]],
)
def test_help_imports_no_library_that_computes(command: list[str]) -> None:
    libraries = {"torch", "transformers", "tokenizers", "shoal.jobs", "lm_eval"}
    assert imported(*command) & libraries == set()


def test_the_server_imports_nothing_of_the_model() -> None:
    """It answers at once, and has no room for it: its processes load what they need."""
    program = "import sys, shoal.server.serve; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "transformers", "tokenizers", "shoal.jobs", "shoal.requests"}
    assert set(done.stdout.split()) & heavy == set()


@pytest.mark.long
def test_a_plan_imports_nothing_that_runs_a_model(tmp_path: Path) -> None:
    """Of a model that was counted before; see `shoal.machine.weight_counts`."""
    lines = EXAMPLE.read_text().splitlines(keepends=True)[:10]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    CliRunner().invoke(app, ["plan", str(tmp_path / "in.jsonl")])
    found = imported("plan", tmp_path / "in.jsonl")
    assert "shoal.jobs" in found
    assert found & set(NOT_TO_PLAN) == set()
