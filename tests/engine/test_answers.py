"""Answers held to schemas, patterns and choices, through whole models."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from shoal import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from shoal.errors import InvalidRequestError
from tests.helpers.ahead import run_ahead
from tests.helpers.logprobs import same_logprobs
from tests.helpers.metaspace import save_metaspace_model
from tests.helpers.models import forest_of_prompts, save_model
from tests.helpers.schemas import SCHEMAS, TICKET
from tests.helpers.tool_models import save_tool_model

PROMPTS = ["the fish", "the fish see", "see", "swim in the sea and", "naïve"]


def held(schema: dict[str, Any], **values: Any) -> SamplingParams:
    asked = StructuredOutputsParams(json=schema, whitespace_pattern="[ \n]?")
    return SamplingParams(structured_outputs=asked, **{"max_tokens": 120, **values})


def make_llm(folder: Path | None, **options: Any) -> LLM:
    model = None if folder is None else str(folder)
    return LLM(model, **{"dtype": "float32", "kv_memory": "8MiB", "device": "cpu", **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


def checked(outputs: list[RequestOutput], schemas: list[dict[str, Any]]) -> dict[str, int]:
    """Parse and validate all answers that were not cut; how many ended how."""
    ends = {"stop": 0, "length": 0}
    for out, schema in zip(outputs, schemas, strict=True):
        assert out.error is None
        for choice in out.outputs:
            assert choice.finish_reason is not None
            ends[choice.finish_reason] += 1
            if choice.finish_reason == "stop":
                jsonschema.validate(json.loads(choice.text), schema)
    return ends


def drawn(llm: LLM, count: int) -> dict[str, int]:
    """The ends of so many answers, at temperature 1."""
    schemas = [schema for _, schema in zip(range(count), itertools.cycle(SCHEMAS), strict=False)]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    outputs = llm.generate(prompts, [held(schema) for schema in schemas], use_tqdm=False)
    return checked(outputs, schemas)


@pytest.mark.parametrize("kind", ["bundled", "random", "llama", "gemma"])
def test_answers_fit_their_schema(kind: str, tmp_path: Path, folder: Path) -> None:
    models = {"bundled": None, "random": folder}
    path = models[kind] if kind in models else save_metaspace_model(tmp_path, kind)
    ends = drawn(make_llm(path, max_model_len=160), 42)
    assert ends["stop"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundled", "random"])
def test_two_thousand_answers_fit_their_schema(kind: str, folder: Path) -> None:
    ends = drawn(make_llm(None if kind == "bundled" else folder, max_model_len=160), 2000)
    print(kind, ends)
    assert ends["stop"] > 1200


def test_any_whitespace_too(folder: Path) -> None:
    """As asked for by default, where a random model writes little but white space."""
    asked = StructuredOutputsParams(json=TICKET)
    params = SamplingParams(max_tokens=120, structured_outputs=asked)
    ends = checked(make_llm(folder).generate(PROMPTS, params, use_tqdm=False), [TICKET] * 5)
    assert sum(ends.values()) == 5


FEATURES = [
    held(TICKET, n=3, seed=1),
    held(TICKET, temperature=0.0, frequency_penalty=0.7, presence_penalty=0.3),
    held(SCHEMAS[2], repetition_penalty=1.2, seed=2, logprobs=2, n=2),
    held(SCHEMAS[1], temperature=0.0, prompt_logprobs=1, logprobs=0),
    held(SCHEMAS[4], seed=3, top_p=0.8, top_k=30, min_p=0.01),
    held(SCHEMAS[3], temperature=0.0, min_tokens=6, logit_bias={40: 5.0}),
    SamplingParams(temperature=1.0, seed=4, max_tokens=20),
    held(TICKET, seed=5, stop=["nor"]),
    held(TICKET, seed=6, max_tokens=7),
    SamplingParams(
        seed=7, max_tokens=9, structured_outputs=StructuredOutputsParams(choice=["yes", "no"])
    ),
]
FITS: list[dict[str, Any]] = [TICKET, TICKET, SCHEMAS[2], SCHEMAS[1], SCHEMAS[4], SCHEMAS[3]]


def same(found: list[RequestOutput], expected: list[RequestOutput]) -> None:
    for out, wanted in zip(found, expected, strict=True):
        assert out.error is None
        for choice, other in zip(out.outputs, wanted.outputs, strict=True):
            assert choice.token_ids == other.token_ids
            assert (choice.text, choice.finish_reason) == (other.text, other.finish_reason)
            same_logprobs(choice.logprobs, other.logprobs)


def test_with_every_feature_preempted_and_run_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = forest_of_prompts(9)[: len(FEATURES)]
    expected = make_llm(folder).generate(prompts, FEATURES, use_tqdm=False)
    assert checked(expected[: len(FITS)], FITS)["stop"] > 3
    assert {choice.text for choice in expected[9].outputs} <= {"yes", "no"}
    assert expected[8].outputs[0].finish_reason == "length"
    tight = {"kv_memory": "64KiB", "max_num_batched_tokens": 24, "order": "blend"}
    small = make_llm(folder, **tight)
    same(small.generate(prompts, FEATURES, use_tqdm=False), expected)
    assert small.last_run is not None
    assert small.last_run.preemptions
    run_ahead(monkeypatch)
    for options in ({}, tight):
        same(make_llm(folder, **options).generate(prompts, FEATURES, use_tqdm=False), expected)


@contextmanager
def failing_once(llm: LLM, at: int) -> Iterator[None]:
    calls = itertools.count()

    def check(*call: Any) -> None:
        if next(calls) == at:
            raise RuntimeError("a passing failure")

    with_hook: torch.nn.Module = llm._engine._model.module  # type: ignore[union-attr]
    handle = with_hook.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("ahead", [False, True])
def test_a_passing_failure_changes_no_answer(
    folder: Path, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = forest_of_prompts(9)[: len(FEATURES)]
    expected = make_llm(folder).generate(prompts, FEATURES, use_tqdm=False)
    if ahead:
        run_ahead(monkeypatch)
    llm = make_llm(folder)
    with failing_once(llm, 9):
        same(llm.generate(prompts, FEATURES, use_tqdm=False), expected)


def test_greedy_text_that_is_valid_already_stays_as_it_is(tmp_path: Path) -> None:
    llm = make_llm(save_metaspace_model(tmp_path, "llama"))
    prompts = [f"{one} {other}" for one, other in itertools.product(PROMPTS, repeat=2)]
    free = SamplingParams(temperature=0.0, max_tokens=24)
    texts = [out.outputs[0] for out in llm.generate(prompts, free, use_tqdm=False)]
    held_to = [
        SamplingParams(
            temperature=0.0,
            max_tokens=24,
            structured_outputs=StructuredOutputsParams(regex=f"(?s:{re.escape(text.text)}.*)"),
        )
        for text in texts
    ]
    # Half a character at the end is no text that a pattern can describe.
    whole = [i for i, text in enumerate(texts) if "\ufffd" not in text.text]
    assert len(whole) > 2
    found = llm.generate([prompts[i] for i in whole], [held_to[i] for i in whole], use_tqdm=False)
    for index, out in zip(whole, found, strict=True):
        assert out.outputs[0].token_ids == texts[index].token_ids


def test_the_bundled_models_own_json_stays_as_it_is() -> None:
    lines = Path("examples/tickets.jsonl").read_text().splitlines()[:12]
    chats = [json.loads(line)["body"]["messages"] for line in lines]
    llm = make_llm(None, kv_memory="64MiB")
    free = SamplingParams(temperature=0.0, max_tokens=64)
    texts = [out.outputs[0].text for out in llm.chat(chats, free, use_tqdm=False)]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    free.structured_outputs = StructuredOutputsParams(json_object=True)
    assert [out.outputs[0].text for out in llm.chat(chats, free, use_tqdm=False)] == texts


def test_an_impossible_schema_is_its_callers_error(folder: Path) -> None:
    impossible = StructuredOutputsParams(json={"type": "integer", "minimum": 5, "maximum": 2})
    params = [SamplingParams(), SamplingParams(structured_outputs=impossible)]
    with pytest.raises(InvalidRequestError, match="Unsatisfiable") as caught:
        make_llm(folder).generate(["a", "b"], params, use_tqdm=False)
    assert caught.value.param == "sampling_params[1].structured_outputs"


def test_an_answer_that_cannot_go_on_fails_alone(folder: Path) -> None:
    """No token of this model writes the second byte of a soft hyphen."""
    stuck = StructuredOutputsParams(choice=["ab\u00ad"])
    params = [
        SamplingParams(max_tokens=8, seed=1),
        SamplingParams(max_tokens=8, structured_outputs=stuck),
    ]
    first, second = make_llm(folder).generate(["x", "y"], params, use_tqdm=False)
    assert first.error is None
    assert second.error is not None
    assert (second.error.code, second.error.status_code) == ("structured_output_failed", 400)


def test_devices_compile_for_themselves(folder: Path) -> None:
    prompts = forest_of_prompts(9)[: len(FEATURES)]
    expected = make_llm(folder).generate(prompts, FEATURES, use_tqdm=False)
    two = make_llm(folder, data_parallel_size=2, max_num_batched_tokens=64)
    try:
        same(two.generate(prompts, FEATURES, use_tqdm=False), expected)
    finally:
        two.close()


def test_parts_of_one_model(folder: Path) -> None:
    expected = make_llm(folder).generate(PROMPTS, held(TICKET, seed=1), use_tqdm=False)
    two = make_llm(folder, tensor_parallel_size=2)
    try:
        found = two.generate(PROMPTS, held(TICKET, seed=1), use_tqdm=False)
    finally:
        two.close()
    assert checked(found, [TICKET] * len(PROMPTS)) == checked(expected, [TICKET] * len(PROMPTS))


def test_a_schema_holds_after_reasoning_in_python(tmp_path: Path) -> None:
    """As in files; an output's text is all that the model wrote."""
    model = save_tool_model(tmp_path, "qwen")
    llm = LLM(str(model), kv_memory="16MiB", device="cpu", max_model_len=512)
    ends = int(llm.get_tokenizer().convert_tokens_to_ids("</think>"))
    said = [[{"role": "user", "content": f"fish {i}"}] for i in range(6)]
    asked = held(TICKET, logit_bias={ends: 6.0}, max_tokens=250, seed=1)
    outputs = llm.chat(said, asked, chat_template_kwargs={"begin_thinking": True}, use_tqdm=False)
    outputs += llm.chat(said, asked, chat_template_kwargs={"enable_thinking": False})
    whole = [out.outputs[0].text for out in outputs if out.outputs[0].finish_reason == "stop"]
    assert sum("</think>" in text for text in whole) > 2
    assert sum("</think>" not in text for text in whole) > 2
    for text in whole:
        jsonschema.validate(json.loads(text.rpartition("</think>")[2]), TICKET)
    plain = LLM(str(model), kv_memory="16MiB", device="cpu", reasoning_parser="none")
    (out,) = plain.chat(said[0], asked, chat_template_kwargs={"begin_thinking": True})
    assert out.outputs[0].text.lstrip().startswith("{")
