from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.config import EngineOptions
from shoal.errors import JobError, OptionError
from shoal.jobs import plan_job


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    prompts = np.arange(40, dtype=np.int32).reshape(4, 10)
    prompts[:3, :8] = 7
    np.save(tmp_path / "tokens.npy", prompts)
    return tmp_path / "tokens.npy"


def plan(path: Path, **arguments: Any) -> Any:
    return plan_job(path, None, EngineOptions(kv_memory="8MiB"), **arguments)


def test_token_ids_are_planned(tokens: Path) -> None:
    job = plan(tokens, max_tokens=5)
    assert job.whole.prompt_tokens == 40
    assert job.savings.forest_max == 16
    assert job.table.max_new_tokens.tolist() == [5] * 4
    assert job.rejected == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({}, "--max-tokens is needed"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5, "served_names": ["*"]}, "--served-model-name"),
        ({"max_tokens": 5, "results": Path("results.jsonl")}, "--results"),
    ],
)
def test_options_that_do_not_apply(tokens: Path, arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        plan(tokens, **arguments)


def test_max_tokens_is_not_for_batch_files(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_text("")
    with pytest.raises(OptionError, match="--max-tokens is for files of token ids"):
        plan(tmp_path / "requests.jsonl", max_tokens=5)


def test_prompts_that_are_not_for_the_model(tokens: Path) -> None:
    with pytest.raises(JobError, match=r"tokens\.npy: prompts\[0\].*may generate"):
        plan(tokens, max_tokens=10**6)
    prompts = np.load(tokens)
    prompts[2, 3] = 10**6
    np.save(tokens, prompts)
    with pytest.raises(JobError, match=r"prompts\[2\] holds token id 1000000 at position 3"):
        plan(tokens, max_tokens=5)
