"""`shoal run` and `shoal plan` as a user types them, on the bundled model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.model.description import bundled_model_path
from shoal.scheduler import BLOCK_SIZE
from tests.e2e.conftest import Shoal
from tests.helpers.e2e_jobs import chat, completion, good, mixed

FLOAT32 = ("--dtype", "float32", "--device", "cpu")


def answers(records: list[dict[str, Any]]) -> list[Any]:
    """What a record says, without ids and times; logprobs nearly."""
    return [
        (
            record["custom_id"],
            record["response"]["status_code"],
            rounded(record["response"]["body"].get("choices")),
            record["response"]["body"].get("error"),
        )
        for record in records
    ]


def rounded(value: Any) -> Any:
    """Another schedule adds floating point numbers up in another order."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-3)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_2000_mixed_lines_give_2000_records(shoal: Shoal) -> None:
    lines = mixed(2000, seed=1)
    shoal.write("in.jsonl", lines)
    assert shoal("run", "in.jsonl", "-o", "out.jsonl", "--summary", "s.json", *FLOAT32) == 3
    results, errors = shoal.read("out.jsonl"), shoal.read("out.errors.jsonl")
    assert len(results) + len(errors) == 2000
    assert len(results) > 1000
    assert len(errors) > 300
    assert {r["response"]["status_code"] for r in results} == {200}
    assert {r["response"]["status_code"] for r in errors} == {400}
    numbers = [r["response"]["body"]["error"]["line"] for r in errors]
    assert numbers == sorted(set(numbers))
    failed = set(numbers)
    expected = [
        line["custom_id"] for i, line in enumerate(lines, 1) if i not in failed
    ]  # fmt: skip
    assert [r["custom_id"] for r in results] == expected
    summary = json.loads(shoal.text("s.json"))
    assert summary["requests"] == {
        "total": 2000, "succeeded": len(results), "failed": len(errors)
    }  # fmt: skip
    assert "requests failed: see" in shoal.text("stderr")
    codes = {r["response"]["body"]["error"]["code"] for r in errors}
    assert {
        "invalid_json_line", "missing_required_parameter", "duplicate_custom_id", "invalid_url",
        "model_not_found", "invalid_value", "unsupported_parameter", "context_length_exceeded",
        "streaming_unsupported",
    } <= codes  # fmt: skip


def test_sharing_changes_no_text_and_computes_what_was_planned(shoal: Shoal) -> None:
    shoal.write("in.jsonl", [good(i) for i in range(60)])
    # The first run of a model measures what segments cost on this machine; a plan made before it
    # weighs them with assumed costs.
    assert shoal("run", "in.jsonl", "-o", "first.jsonl", "--quiet", *FLOAT32) == 0
    seen, saved = [], {}
    for sharing in ("forest", "single", "paper", "none"):
        options = ("--sharing", sharing, *FLOAT32)
        assert shoal("plan", "in.jsonl", "--json", *options) == 0
        plan = json.loads(shoal.text("stdout"))
        run = ("run", "in.jsonl", "-o", f"{sharing}.jsonl", "--summary", "s.json", "--quiet")
        assert shoal(*run, *options) == 0
        assert shoal.text("stderr") == ""
        tokens = json.loads(shoal.text("s.json"))["tokens"]
        assert tokens["prompt"] == plan["tokens"]["prompt"]
        assert tokens["prompt_saved"] == {**plan["tokens"]["saved"], "none": 0}[sharing]
        assert tokens["prompt_computed"] == tokens["prompt"] - tokens["prompt_saved"]
        saved[sharing] = tokens["prompt_saved"]
        seen.append(answers(shoal.read(f"{sharing}.jsonl")))
    assert seen[1:] == seen[:1] * 3
    assert saved["forest"] >= saved["single"] >= saved["paper"] > saved["none"] == 0


def test_report(shoal: Shoal) -> None:
    shoal.write("in.jsonl", [good(i) for i in range(12)])
    command = ("run", "in.jsonl", "-o", "out.jsonl", "--report", "report", "--quiet", *FLOAT32)
    assert shoal(*command) == 0
    page = shoal.text("report/index.html")
    assert "in.jsonl" in page
    assert "12 succeeded, 0 failed" in page
    for name in ("plan.svg", "token_batches.svg", "summary.json"):
        assert (shoal.folder / "report" / name).stat().st_size > 100
    assert shoal(*command) == 0
    assert "no report written" in shoal.text("stderr")


def test_the_smallest_kv_budget_that_holds_the_largest_request(shoal: Shoal) -> None:
    shoal.write("in.jsonl", [good(i) for i in range(40)])
    assert shoal("run", "in.jsonl", "-o", "ample.jsonl", "--quiet", *FLOAT32) == 0
    block = BLOCK_SIZE * json.loads(_kv_bytes_per_token())
    largest = 0
    for record in shoal.read("ample.jsonl"):
        usage = record["response"]["body"]["usage"]
        largest = max(largest, usage["prompt_tokens"] + 6 - 1)
    tight = ("--kv-memory", f"{-(-largest // BLOCK_SIZE) * block}B", "--summary", "s.json")
    assert shoal("run", "in.jsonl", "-o", "tight.jsonl", "--quiet", *tight, *FLOAT32) == 0
    assert answers(shoal.read("tight.jsonl")) == answers(shoal.read("ample.jsonl"))
    summary = json.loads(shoal.text("s.json"))
    assert summary["peak_kv_bytes"] <= -(-largest // BLOCK_SIZE) * block


def _kv_bytes_per_token() -> str:
    config = json.loads((bundled_model_path() / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    return str(2 * layers * heads * config["head_dim"] * 4)


def test_plan_needs_no_weights(shoal: Shoal, tmp_path: Path) -> None:
    model = tmp_path / "shoal-tiny"
    model.mkdir()
    for path in bundled_model_path().iterdir():
        if path.suffix != ".safetensors":
            (model / path.name).write_bytes(path.read_bytes())
    shoal.write("in.jsonl", [chat("a", "x"), chat("b", "y"), b"nonsense"])
    assert shoal("plan", "in.jsonl", "--model", model) == 0
    shown = shoal.text("stdout")
    for expected in ("2 will run", "1 invalid", "paper", "forest", "You sort support tickets"):
        assert expected in shown
    assert "line 3: not JSON" in shown
    assert shoal("run", "in.jsonl", "-o", "out.jsonl", "--model", model) == 1
    assert "weights" in shoal.text("stderr")


def test_interrupt_saves_and_resumes(shoal: Shoal) -> None:
    lines = [completion(f"r{i}", f"tell me {i}", max_tokens=60) for i in range(64)]
    shoal.write("in.jsonl", lines)
    command = ("run", "in.jsonl", "-o", "out.jsonl", *FLOAT32, "--token-budget", "8")
    journal = shoal.folder / "out.jsonl.journal"
    process = shoal.start(*command)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size > 2000):
        assert time.monotonic() < deadline
        assert process.poll() is None, shoal.text("stderr")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert "run the same command again to resume" in shoal.text("stderr")
    assert not (shoal.folder / "out.jsonl").exists()
    assert shoal(*command) == 0
    assert "resuming" in shoal.text("stderr")
    assert [r["custom_id"] for r in shoal.read("out.jsonl")] == [f"r{i}" for i in range(64)]
    assert shoal(*command) == 0
    assert "already finished" in shoal.text("stderr")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "in.jsonl"), 2, "--output"),
        (("run", "in.jsonl", "-o", "o", "--sharing", "most"), 2, "forest"),
        (("run", "in.jsonl", "-o", "o", "--kv-memory", "plenty"), 2, "not a size"),
        (("run", "in.jsonl", "-o", "in.jsonl"), 2, "in.jsonl"),
        (("run", "absent.jsonl", "-o", "o"), 1, "absent.jsonl"),
        (("plan", "absent.jsonl"), 1, "absent.jsonl"),
        (("run", "in.jsonl", "-o", "o", "--model", "./no-such-model"), 1, "no-such-model"),
        (("run", "in.jsonl", "-o", "o", "--summary", "in.jsonl"), 2, "must be different files"),
        (("run", "in.jsonl", "-o", "o", "--summary", "no/s.json"), 2, "there is no folder"),
        (("run", "in.jsonl", "-o", "o", "--report", "in.jsonl"), 2, "in.jsonl is a file"),
        (("run", "in.jsonl", "-o", "summary.json", "--report", "."), 2, "--report's summary.json"),
        (("run", "in.jsonl", "-o", "/dev/null", "--restart"), 2, "a pipe or a device"),
        (("plan", "in.jsonl", "--html", "in.jsonl"), 2, "must be different files"),
        (("fly",), 2, "fly"),
    ],
)
def test_wrong_commands(shoal: Shoal, arguments: tuple[str, ...], code: int, message: str) -> None:
    path = shoal.write("in.jsonl", [completion("a", "x")])
    before = path.read_bytes()
    assert shoal(*arguments) == code
    assert path.read_bytes() == before
    assert message in shoal.text("stderr")
    assert "Traceback" not in shoal.text("stderr")


def test_python_dash_m(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "plan" in out.stdout
