"""`logprob_token_ids`: logprobs of chosen tokens at each position, as transformers has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal import LLM, SamplingParams
from shoal.errors import InvalidRequestError
from tests.helpers.models import forest_of_prompts, save_model

NAMED = [3, 250, 17, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), dtype="float32", kv_memory="4MiB")


def test_they_are_those_of_the_model_at_each_position(llm: LLM, folder: Path) -> None:
    prompts = forest_of_prompts(3)[:4]
    # What changes the choice of a token changes no logprob.
    biased = SamplingParams(
        temperature=0.0, max_tokens=3, logit_bias={40: 100.0}, logprob_token_ids=NAMED
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=3, logprob_token_ids=NAMED)
    ranked = SamplingParams(temperature=0.0, max_tokens=3, logprobs=2)
    params = [greedy, biased, ranked, greedy]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, out, asked in zip(prompts, outputs, params, strict=True):
        choice = out.outputs[0]
        ids = prompt + list(choice.token_ids)
        with torch.inference_mode():
            expected = torch.log_softmax(oracle(torch.tensor([ids])).logits[0], dim=-1)
        assert choice.logprobs is not None
        for position, entries in enumerate(choice.logprobs, start=len(prompt)):
            row, own = expected[position - 1], ids[position]
            assert next(iter(entries)) == own
            assert entries[own].rank == int((row >= row[own]).sum())
            if asked is not ranked:
                assert list(entries) == list(dict.fromkeys([own, *NAMED]))
                assert all(e.rank is None for t, e in entries.items() if t != own)
            for token, entry in entries.items():
                assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)


def test_wrong_ids_are_refused_by_name(llm: LLM) -> None:
    for values, message in [
        ({"logprob_token_ids": [3, -1]}, "logprob_token_ids: input should be greater"),
        ({"logprob_token_ids": list(range(129))}, "logprob_token_ids: .*128"),
        ({"logprob_token_ids": [3], "logprobs": 4}, "has 1 tokens beside logprobs=4"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            SamplingParams(**values)
    SamplingParams(logprob_token_ids=[3, 4], logprobs=2)
    with pytest.raises(InvalidRequestError, match="token id 256 is not in the model's vocab"):
        llm.generate([[5]], SamplingParams(logprob_token_ids=[256]), use_tqdm=False)
