"""The bundled model: the quality check of every feature that touches what the model sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from shoal import LLM, SamplingParams
from shoal.model.description import bundled_model_path
from tests.e2e.conftest import Shoal

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_BYTES = 12_000_000
LIMIT_PARAMETERS = 6_000_000


@pytest.fixture(scope="module")
def requests() -> list[dict]:
    lines = (EXAMPLES / "tickets.jsonl").read_text().splitlines()
    return [json.loads(line)["body"] for line in lines]


def test_it_is_small() -> None:
    folder = bundled_model_path()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT_BYTES
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.num_parameters() <= LIMIT_PARAMETERS
    assert model.dtype == torch.float32


@pytest.mark.parametrize("text", ["naïve café", "你好世界", "🐟🐠 shoal", "tab\tnew\nline \x00"])
def test_its_tokenizer_loses_no_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_accuracy_on_held_out_tickets(shoal: Shoal) -> None:
    """At least 95 % exact, as `make demo` prints it."""
    assert shoal("run", EXAMPLES / "tickets.jsonl", "-o", "out.jsonl", "--summary", "s.json") == 0
    score = [sys.executable, EXAMPLES / "score.py", "out.jsonl", EXAMPLES / "answers.jsonl"]
    shown = subprocess.run(score, cwd=shoal.folder, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert float(shown.stdout.split()[1]) >= 95.0
    summary = json.loads(shoal.text("s.json"))
    assert summary["requests"]["total"] >= 200
    assert summary["tokens"]["prompt_saved"] > 0.7 * summary["tokens"]["prompt"]


def test_answers_equal_transformers(requests: list[dict]) -> None:
    """A sample of the examples, token for token, against `generate` in float32."""
    sample = requests[::20]
    llm = LLM(dtype="float32", device="cpu")
    params = SamplingParams(temperature=0.0, max_tokens=sample[0]["max_tokens"])
    outputs = llm.chat([body["messages"] for body in sample], params, use_tqdm=False)
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    oracle = AutoModelForCausalLM.from_pretrained(bundled_model_path(), dtype=torch.float32)
    for body, out in zip(sample, outputs, strict=True):
        text = tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            expected = oracle.generate(
                ids, max_new_tokens=params.max_tokens, do_sample=False
            )  # fmt: skip
        assert list(out.outputs[0].token_ids) == expected[0, ids.shape[1] :].tolist()
