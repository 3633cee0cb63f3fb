"""What `shoal plan --json` says is what `shoal run --summary` did, on the same machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import shoal.jobs
from shoal.cli import app
from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE
from shoal.model.description import ModelDescription
from shoal.planner import pilot
from tests.helpers.e2e_jobs import chat, completion

MODEL = ("--dtype", "float32", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first run with a pool large enough measures the machine, so the plan comes second."""
    folder = tmp_path_factory.mktemp("first")
    write(folder, [completion("a", "x")])
    shoal_command("run", folder / "in.jsonl", "-o", folder / "out.jsonl", "--quiet", *MODEL)


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def shoal_command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def kv_bytes(tokens: int) -> str:
    per_token = ModelDescription.load(None, EngineOptions(dtype="float32")).kv_bytes_per_token
    return f"{-(-tokens // BLOCK_SIZE) * BLOCK_SIZE * per_token}B"


def planned_and_run(lines: list[dict[str, Any]], *options: str) -> tuple[Any, Any, Any]:
    """The plan and the summary, as JSON, and the run."""
    found: list[Any] = []
    run_job = shoal.jobs.run_job

    def keeping(*arguments: Any, **named: Any) -> Any:
        found.append(run_job(*arguments, **named))
        return found[0]

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        write(folder, lines)
        patch.setattr(shoal.jobs, "run_job", keeping)
        plan = json.loads(shoal_command("plan", folder / "in.jsonl", "--json", *MODEL, *options))
        out = ("-o", folder / "out.jsonl", "--summary", folder / "s.json", "--quiet")
        shoal_command("run", folder / "in.jsonl", *out, *MODEL, *options)
        return plan, json.loads((folder / "s.json").read_text()), found[0].run


def check(plan: Any, summary: Any, run: Any) -> None:
    assert summary["plan"] == plan["plan"]
    tokens, counts = summary["tokens"], run.stats
    assert tokens["prompt"] == plan["tokens"]["prompt"]
    assert tokens["prompt_computed"] == plan["tokens"]["prompt_computed"]
    assert tokens["prompt"] == tokens["prompt_computed"] + tokens["prompt_saved"]
    computed = tokens["prompt_computed"] + tokens["recomputed"]
    assert counts.prompt_tokens_computed <= computed, "the plan says what was computed"
    # What an idle device takes over it plans anew, and may share more of it.
    assert counts.prompt_tokens_computed == computed or counts.device_seconds
    assert summary["plan"]["order"] == plan["order"]
    assert summary["kv_peak_bytes_forecast"] == plan["plan"]["kv_peak_bytes"]
    assert summary["lengths"]["pilots"] == plan["plan"]["pilots"]


texts = st.sampled_from(["my order is late", "my order is lost", "hello", "a b c d e f g " * 9])


@st.composite
def requests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Chats behind two policies, duplicates among them, several choices, scored prompts."""
    lines = []
    for number in range(draw(st.integers(2, 14))):
        name, text = f"r-{number}", draw(texts)
        match draw(st.integers(0, 3)):
            case 0:
                lines.append(completion(name, text, n=draw(st.integers(1, 3)), temperature=1))
            case 1:
                asked = draw(
                    st.sampled_from(
                        [
                            {},
                            {"max_tokens": 0},
                            {"max_tokens": 0, "prompt_logprob_start": 3},
                            {"max_tokens": 0, "prompt_logprob_start": 10_000, "n": 2},
                        ]
                    )
                )
                lines.append(completion(name, text, echo=True, logprobs=1, **asked))
            case kind:
                limit = draw(st.sampled_from([1, 5, 40]))
                lines.append(chat(name, text, kind - 2, max_tokens=limit))
    return lines


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests(),
    st.sampled_from(["forest", "single", "paper", "none"]),
    st.sampled_from(["auto", "blend", "ratio", "input"]),
    st.sampled_from([384, 20_000]),
)
def test_the_plan_shown_is_the_plan_run(
    lines: list[dict[str, Any]], sharing: str, order: str, kv_tokens: int
) -> None:
    options = ("--sharing", sharing, "--order", order, "--kv-memory", kv_bytes(kv_tokens))
    plan, summary, run = planned_and_run(lines, *options, "--token-budget", "256")
    check(plan, summary, run)
    assert plan["machine"]["source"] == "measured"


def test_a_pilot_is_part_of_the_plan_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "_SMALL_JOB", 100)
    monkeypatch.setattr(pilot, "_RECOMPUTED_SHARE", 1.0)
    monkeypatch.setattr(pilot, "_MOST", 0.2)
    # Two prefixes so long that they are shared, and nothing else is, whatever a segment costs here.
    prefixes = [20] * 300, [21] * 300
    sampling = {"max_tokens": 64, "temperature": 1, "stop": ["e", "a", " ", "o"]}
    lines = [completion(f"r-{i}", [*prefixes[i % 2], 30 + i], **sampling) for i in range(210)]
    plan, summary, run = planned_and_run(lines)
    check(plan, summary, run)
    assert plan["plan"]["pilots"] > 0


def test_several_devices_run_the_plans_shown() -> None:
    lines = [chat(f"r-{i}", f"my order {i % 20} is late", i % 2) for i in range(30)]
    lines += [completion(f"s-{i}", "hello you", n=2, temperature=1) for i in range(4)]
    plan, summary, run = planned_and_run(lines, "--devices", "2", "--token-budget", "128")
    check(plan, summary, run)
    assert len(plan["devices"]["kv_peak_bytes"]) == 2


def test_without_a_measurement_the_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path, [completion("a", "x")])
    plan = json.loads(shoal_command("plan", tmp_path / "in.jsonl", "--json", *MODEL))
    assert plan["machine"]["source"] == "assumed"
    assert "one is assumed" in " ".join(shoal_command("plan", tmp_path / "in.jsonl").split())
