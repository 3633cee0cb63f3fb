"""`shoal eval`: the harness's own command, run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shoal.integrations import lm_eval_command
from shoal.integrations.lm_eval_command import MODEL, TARGET, with_model

ROOT = Path(__file__).parents[2]
TASKS = "tests/integrations/tasks"


def shoal(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal", "eval", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | more,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--tasks", "a"], ["--tasks", "a", "--model", "shoal"]),
        (["run", "-t", "a"], ["run", "-t", "a", "--model", "shoal"]),
        (["--tasks", "a", "--model", "hf"], None),
        (["--model=hf", "--tasks", "a"], None),
        (["-M", "hf", "--tasks", "a"], None),
        (["-Mhf", "--tasks", "a"], None),
        (["--config", "a.yaml"], None),
        (["--model_args", "pretrained=a"], ["--model_args", "pretrained=a", "--model", "shoal"]),
        (["ls", "tasks"], None),
        (["run", "--help"], None),
        ([], None),
    ],
)
def test_the_model_is_ours_unless_another_is_named(
    given: list[str], passed: list[str] | None
) -> None:
    assert with_model(given) == (given if passed is None else passed)


@pytest.mark.long
def test_the_entry_point_is_the_registered_model() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared["lm_eval.models"] == {MODEL: TARGET}
    lm_eval_command.register()
    from lm_eval.api.registry import get_model

    assert get_model(MODEL).__name__ == "ShoalLM"


def test_a_missing_harness_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_command, "find_spec", lambda name: None)
    with pytest.raises(lm_eval_command.OptionError, match=r"pip install 'shoal\[eval\]'"):
        lm_eval_command.run_lm_eval(["--tasks", "a"])


@pytest.mark.long
def test_a_run(tmp_path: Path) -> None:
    done = shoal(
        *("--include_path", TASKS, "--tasks", "tickets_tag,tickets_answer", "--limit", "2"),
        *("--model_args", "dtype=float32", "--apply_chat_template"),
        *("--output_path", str(tmp_path / "out")),
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["model"] == "shoal"
    assert results["results"]["tickets_tag"]["acc,none"] == 1.0
    assert "|tickets_tag" in done.stdout


@pytest.mark.long
def test_wrong_options_are_one_line_and_an_exit_code() -> None:
    done = shoal("--include_path", TASKS, "--tasks", "tickets_tag", "--model_args", "revision=x")
    assert done.returncode == 2
    assert "shoal: revision=x is not supported" in done.stderr.splitlines()[-1]
