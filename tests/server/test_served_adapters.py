"""`shoal serve --lora`: adapters are models of the server, by the official client."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from openai.types import Batch

from tests.helpers.e2e_jobs import completion
from tests.helpers.lora import peft_greedy, save_adapter
from tests.helpers.models import byte_tokenizer, forest_of_prompts, save_model
from tests.server.server_process import serving

NAMES = ["base", "legal", "sql"]
PROMPTS = forest_of_prompts(3)[:3]
ENDPOINT = "/v1/completions"


def error_of(batch: Batch, code: str) -> str:
    """The message of a refused batch's errors of that code."""
    assert batch.status == "failed"
    assert batch.errors is not None
    return " ".join(str(each.message) for each in batch.errors.data or [] if each.code == code)


@pytest.mark.long
def test_adapters_are_models(tmp_path: Path) -> None:
    """Listed, and a batch for one runs with it, as peft runs it; a batch is for one model."""
    model, adapters = save_model(tmp_path / "base", "llama"), tmp_path / "adapters"
    save_adapter(adapters / "sql", model, 1, r=8, lora_alpha=16)
    save_adapter(adapters / "legal", model, 2, r=16, lora_alpha=32)
    options = ["--model", str(model), "--lora", str(adapters), "--dtype", "float32"]
    lines = [
        completion(f"{name}-{number}", prompt, temperature=0, max_tokens=8, model=name)
        for number, prompt in enumerate(PROMPTS)
        for name in NAMES
    ]
    wrong = completion("wrong", PROMPTS[0], max_tokens=8, model="sqll")
    with serving(tmp_path / "server", *options, "--device", "cpu") as server:
        listed = {Path(each.id).name for each in server.client.models.list()}
        assert listed == set(NAMES)
        assert server.client.models.retrieve("sql").object == "model"
        with pytest.raises(openai.NotFoundError):
            server.client.models.retrieve("sqll")
        submitted = [
            server.submit([line for line in lines if line["body"]["model"] == name], ENDPOINT)
            for name in NAMES
        ]
        refused = server.ended(server.submit([wrong], ENDPOINT).id)
        mixed = server.ended(server.submit(lines, ENDPOINT).id)
        ended = [server.ended(batch.id) for batch in submitted]
        records = [record for batch in ended for record in server.records(batch.output_file_id)]
    assert "adapters are 'legal', 'sql'" in error_of(refused, "model_not_found")
    assert "a file is for one model" in error_of(mixed, "mismatched_model")
    bodies = {record["custom_id"]: record["response"]["body"] for record in records}
    assert len(bodies) == len(lines)
    tokenizer, texts = byte_tokenizer(), set()
    for name in NAMES:
        answers = peft_greedy(model, None if name == "base" else adapters / name, PROMPTS, 8)
        for number, tokens in enumerate(answers):
            body = bodies[f"{name}-{number}"]
            assert body["model"] == name
            text = body["choices"][0]["text"]
            whole = tokenizer.decode(PROMPTS[number] + tokens, skip_special_tokens=True)
            assert whole.endswith(text)
            assert text or not tokenizer.decode(tokens, skip_special_tokens=True)
            texts.add((number, text))
    assert len(texts) > 2 * len(PROMPTS)
