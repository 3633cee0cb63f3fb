"""Texts of tokenizers that drop a space where a text begins: in files and in Python."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from transformers import PreTrainedTokenizerFast

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.jobs import JobSpec, run_job
from tests.helpers.metaspace import KINDS, metaspace_tokenizer, save_metaspace_model
from tests.helpers.models import greedy

PROMPTS = ["see the fish", "naïve fish", "swim in the sea; see", "f"]
COUNT = 8


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return metaspace_tokenizer(kind)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_metaspace_model(tmp_path_factory.mktemp(kind), kind)


def completions(folder: Path, work: Path, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first choice of each completions request, run from a file."""
    base = {"model": "m", "temperature": 0, "max_tokens": COUNT, "ignore_eos": True}
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": base | body}
        for number, body in enumerate(bodies)
    ]
    (work / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    run_job(
        JobSpec(
            input=work / "in.jsonl",
            output=work / "out.jsonl",
            model=str(folder),
            served_names=["m"],
            restart=True,
            quiet=True,
            options=EngineOptions(dtype="float32", device="cpu", kv_memory="1MiB", token_budget=64),
        )
    )
    records = map(orjson.loads, (work / "out.jsonl").read_bytes().splitlines())
    return [record["response"]["body"]["choices"][0] for record in records]


def test_answers_read_on_from_their_prompts(
    folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    ids = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    answers = [greedy(folder, prompt, COUNT) for prompt in ids]
    before = [tokenizer.decode(prompt, skip_special_tokens=True) for prompt in ids]
    both = [
        tokenizer.decode(prompt + answer, skip_special_tokens=True)
        for prompt, answer in zip(ids, answers, strict=True)
    ]
    texts = [whole.removeprefix(prompt) for whole, prompt in zip(both, before, strict=True)]
    assert any(text.startswith(" ") for text in texts)
    bodies = [{"prompt": prompt, "echo": echo} for echo in (False, True) for prompt in PROMPTS]
    found = [choice["text"] for choice in completions(folder, tmp_path, bodies)]
    assert found == texts + both
    llm = LLM(
        str(folder), dtype="float32", device="cpu", kv_memory="1MiB", max_num_batched_tokens=64
    )
    params = SamplingParams(temperature=0, max_tokens=COUNT, ignore_eos=True)
    python = llm.generate(PROMPTS, params, use_tqdm=False)
    assert [completion.outputs[0].text for completion in python] == texts


@pytest.mark.parametrize("skip", [True, False])
def test_offsets_are_where_tokens_stand_in_the_text(
    folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, skip: bool
) -> None:
    special = {"logprobs": 0, "skip_special_tokens": skip}
    bodies = [special | {"prompt": p, "echo": echo} for echo in (True, False) for p in PROMPTS]
    echoed, plain = [], []
    for body, choice in zip(bodies, completions(folder, tmp_path, bodies), strict=True):
        (echoed if body["echo"] else plain).append(choice)
    for prompt, whole, answer in zip(PROMPTS, echoed, plain, strict=True):
        ids = tokenizer(prompt).input_ids
        ids += greedy(folder, ids, COUNT)
        texts = [tokenizer.decode(ids[:n], skip_special_tokens=skip) for n in range(len(ids) + 1)]
        starts = [len(text.rstrip("\ufffd")) for text in texts[:-1]]
        assert whole["logprobs"]["text_offset"] == starts
        first = len(whole["text"]) - len(answer["text"])
        assert answer["logprobs"]["text_offset"] == [at - first for at in starts[-COUNT:]]
        tokens, text = answer["logprobs"]["tokens"], answer["text"]
        for token, (begin, end) in zip(
            tokens, pairwise([*answer["logprobs"]["text_offset"], len(text)]), strict=True
        ):
            assert text[begin:end] in (token, "")


def test_a_stop_string_with_its_space(
    folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (choice,) = completions(folder, tmp_path, [{"prompt": PROMPTS[0], "logprobs": 0}])
    text = choice["text"]
    at = text.index(" ")
    stops = [text[at : at + 2], text[:3], PROMPTS[0][-1] + text[:2]]
    bodies = [
        {"prompt": PROMPTS[0], "stop": stop, "include_stop_str_in_output": include}
        for stop in stops
        for include in (False, True)
    ]
    found = [choice["text"] for choice in completions(folder, tmp_path, bodies)]
    assert found == [text[:at], text[: at + 2], "", text[:3], text, text]
