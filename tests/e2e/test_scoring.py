"""`echo` with `logprobs` in a file, on one device and two, against transformers' log-softmax."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal.model.description import bundled_model_path
from tests.e2e.conftest import Shoal
from tests.helpers.e2e_jobs import completion

FLOAT32 = ("--dtype", "float32", "--device", "cpu", "--kv-memory", "2MiB", "--quiet")
SUBJECTS = [[(7 * i + s) % 500 + 20 for i in range(90)] for s in range(2)]
QUESTIONS = [[(11 * i + 3 * q) % 500 + 20 for i in range(30)] for q in range(3)]
CONTEXTS = [subject + question for subject in SUBJECTS for question in QUESTIONS]


def asked(number: int, prompt: list[int], **body: Any) -> dict[str, Any]:
    return completion(f"r-{number}", prompt, echo=True, **body)


def oracle(prompts: list[list[int]]) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(bundled_model_path(), dtype=torch.float32)
    with torch.inference_mode():
        return [torch.log_softmax(model(torch.tensor([p])).logits[0], dim=-1) for p in prompts]


def test_choices_are_scored_in_a_file(shoal: Shoal) -> None:
    prompts = [[*context, 40 + choice] for context in CONTEXTS for choice in range(4)]
    score = {"logprobs": 1, "max_tokens": 0, "prompt_logprob_start": 120}
    lines = [asked(number, prompt, **score) for number, prompt in enumerate(prompts)]
    shoal.write("in.jsonl", lines)
    assert shoal("run", "in.jsonl", "-o", "one.jsonl", "--summary", "s.json", *FLOAT32) == 0
    assert shoal("run", "in.jsonl", "-o", "two.jsonl", "--devices", "2", *FLOAT32) == 0
    tokens = json.loads(shoal.text("s.json"))["tokens"]
    assert tokens["prompt_computed"] == 2 * 90 + 6 * 30
    assert tokens["prompt_computed"] + tokens["prompt_saved"] == tokens["prompt"] == 24 * 121
    expected = oracle(CONTEXTS)
    for name in ("one.jsonl", "two.jsonl"):
        for number, record in enumerate(shoal.read(name)):
            body = record["response"]["body"]
            (choice,) = body["choices"]
            assert choice["finish_reason"] == "length"
            assert body["usage"]["completion_tokens"] == 0
            assert body["usage"]["prompt_tokens"] == 121
            found = choice["logprobs"]
            assert len(found["tokens"]) == 121
            assert found["token_logprobs"][:120] == found["top_logprobs"][:120] == [None] * 120
            row = expected[number // 4][-1]
            best = max(found["top_logprobs"][120].values())
            assert best == pytest.approx(float(row.max()), abs=1e-4)
            own = float(row[40 + number % 4])
            assert found["token_logprobs"][120] == pytest.approx(own, abs=1e-4)


def test_whole_prompts_are_scored_beside_answers(shoal: Shoal) -> None:
    prompts = [*CONTEXTS, *SUBJECTS, CONTEXTS[0]]
    bodies = [{"logprobs": 2, "max_tokens": n % 3} for n in range(len(prompts))]
    lines = [asked(n, p, **b) for n, (p, b) in enumerate(zip(prompts, bodies, strict=True))]
    shoal.write("in.jsonl", lines)
    assert shoal("run", "in.jsonl", "-o", "out.jsonl", *FLOAT32) == 0
    for number, (record, rows) in enumerate(
        zip(shoal.read("out.jsonl"), oracle(prompts), strict=True)
    ):
        found = record["response"]["body"]["choices"][0]["logprobs"]["token_logprobs"]
        prompt = prompts[number]
        assert len(found) == len(prompt) + number % 3
        assert found[0] is None
        ours = torch.tensor(found[1 : len(prompt)])
        theirs = rows[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
