"""Jobs on models with recurrent states: killed and on two devices as in one calm run."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Shoal
from tests.e2e.test_devices import begun, done
from tests.e2e.test_run import answers
from tests.helpers.e2e_jobs import completion
from tests.helpers.models import VOCABULARY, greedy, save_model

NEW_TOKENS = 24
REQUESTS = 60


def prompts() -> list[list[int]]:
    """Two segments in one another, and their users."""
    rng = random.Random(3)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(2, VOCABULARY) for _ in range(count)]

    stems = [tokens(40)]
    stems.append(stems[0] + tokens(21))
    return [stems[i % 2] + tokens(3 + i % 5) for i in range(REQUESTS)]


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen3_5", "bamba"])
def test_jobs(family: str, shoal: Shoal, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", family)
    asked = prompts()
    lines = [
        completion(f"r{i}", prompt, model=str(model), max_tokens=NEW_TOKENS, logprobs=1)
        for i, prompt in enumerate(asked)
    ]
    shoal.write("in.jsonl", lines)
    options = ("--model", model, "--dtype", "float32", "--device", "cpu", "--token-budget", 24)
    plenty = (*options, "--kv-memory", "2MiB")
    assert shoal("run", "in.jsonl", "-o", "calm.jsonl", *plenty) == 0, shoal.text("stderr")
    calm = answers(shoal.read("calm.jsonl"))
    texts = [choice["text"] for _, _, (choice,), _ in calm]
    assert len(set(texts)) > REQUESTS / 2
    assert texts[7] == text_of(model, greedy(model, asked[7], NEW_TOKENS))

    # Killed while it generates, and resumed.
    run = ("run", "in.jsonl", "-o", "out.jsonl", *plenty)
    killed = shoal.start(*run)
    begun(shoal, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    assert 0 < done(shoal) < REQUESTS
    assert shoal(*run) == 0, shoal.text("stderr")
    assert "resuming:" in shoal.text("stderr")
    assert answers(shoal.read("out.jsonl")) == calm

    assert shoal("run", "in.jsonl", "-o", "two.jsonl", *plenty, "--devices", 2) == 0
    assert answers(shoal.read("two.jsonl")) == calm

    code = shoal("run", "in.jsonl", "-o", "tp.jsonl", *plenty, "--tensor-parallel", 2)
    assert code == 1
    # For some families transformers has no plan at all, and that is said first.
    reasons = "have recurrent layers, which are not split over devices", "no tensor parallel plan"
    assert any(reason in shoal.text("stderr") for reason in reasons)


def text_of(model: Path, ids: list[int]) -> str:
    """What token ids say, without special tokens."""
    from transformers import AutoTokenizer

    text: str = AutoTokenizer.from_pretrained(model).decode(ids, skip_special_tokens=True)
    return text
