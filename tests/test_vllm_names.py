"""What becomes of each of vLLM's names: fields, options, arguments; and what honoured ones do."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import shoal
from shoal import LLM, SamplingParams
from shoal.errors import InvalidRequestError, OptionError
from shoal.fates import Honoured, NoEffect, Refused
from shoal.llm.options import CALL_OPTIONS, LLM_OPTIONS, engine_options
from shoal.llm.sampling_params import sampling_fates
from shoal.model.description import bundled_model_path

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
VLLM_DEFAULTS: dict[str, Any] = {
    "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": None, "stop": None,
    "stop_token_ids": None, "ignore_eos": False, "max_tokens": 16, "min_tokens": 0,
    "logprobs": None, "prompt_logprobs": None, "detokenize": True, "skip_special_tokens": True,
    "spaces_between_special_tokens": True, "include_stop_str_in_output": False,
    "logit_bias": None, "bad_words": None, "allowed_token_ids": None, "extra_args": None,
    "structured_outputs": None, "flat_logprobs": False, "thinking_token_budget": None,
    "skip_clone": False, "stream_interval": None, "logprob_token_ids": None,
}  # fmt: skip
"""Of vLLM 0.32's `SamplingParams`."""


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_num_batched_tokens=64, kv_memory="8MiB", disable_log_stats=True)


def test_the_public_names() -> None:
    assert all(hasattr(shoal, name) for name in shoal.__all__)
    assert {"Completion", "Choice", "TokenLogprob"}.isdisjoint(vars(shoal))


def test_the_defaults_are_vllms() -> None:
    defaults = {field.name: field.default for field in fields(SamplingParams)}
    assert {name: defaults.get(name, "missing") for name in VLLM_DEFAULTS} == VLLM_DEFAULTS


@pytest.mark.parametrize("name", [n for n, f in sampling_fates().items() if isinstance(f, Refused)])
def test_fields_that_are_not_honoured_are_refused_by_name(name: str) -> None:
    fate = sampling_fates()[name]
    assert isinstance(fate, Refused)
    for value in fate.harmless:
        SamplingParams(**{name: value})
    values = {name: object(), "skip_special_tokens": False}
    with pytest.raises(InvalidRequestError, match=f"^{name}: .*is not supported") as caught:
        SamplingParams(**values)
    assert caught.value.param == name


@pytest.mark.parametrize("name", [n for n, f in LLM_OPTIONS.items() if isinstance(f, Refused)])
def test_options_that_are_not_honoured_are_refused_by_name(name: str) -> None:
    fate = LLM_OPTIONS[name]
    assert isinstance(fate, Refused)
    for value in fate.harmless:
        engine_options({name: value})
    with pytest.raises(OptionError, match=rf"^{name}=.* is not supported\. \w"):
        engine_options({name: "something"})


def test_options_without_effect_take_one_line(caplog: pytest.LogCaptureFixture) -> None:
    idle = {name: 1 for name, fate in LLM_OPTIONS.items() if isinstance(fate, NoEffect)}
    assert {"enforce_eager", "enable_prefix_caching", "max_num_seqs", "swap_space"} <= set(idle)
    with caplog.at_level(logging.WARNING):
        assert engine_options(idle) == engine_options({})
    (record,) = caplog.records
    assert all(name in record.message for name in idle)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"tensor_parallel_size": 2}, {"tensor_parallel": 2}),
        ({"data_parallel_size": 2}, {"devices": 2}),
        ({"gpu_memory_utilization": 0.5}, {"memory_fraction": 0.5}),
        ({"max_num_batched_tokens": 64}, {"token_budget": 64}),
        ({"kv_cache_memory_bytes": 2**20}, {"kv_bytes": 2**20}),
        ({"dtype": "half"}, {"dtype": "float16"}),
        ({"dtype": "torch.bfloat16"}, {"dtype": "bfloat16"}),
        ({"quantization": None, "max_model_len": None}, {"quantization": "none"}),
    ],
)
def test_options_become_the_engines(given: dict[str, Any], found: dict[str, Any]) -> None:
    options = engine_options(given)
    assert {name: getattr(options, name) for name in found} == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpu_memory_utilization": 2.0}, "^gpu_memory_utilization must be above 0"),
        ({"max_num_batched_tokens": 0}, "^max_num_batched_tokens must be a whole number"),
        ({"quantization": "awq"}, "quantization must be one of none, int8"),
        ({"kv_memory": "1GiB", "kv_cache_memory_bytes": 5}, "are one thing"),
        ({"max_model_length": 5}, "no option 'max_model_length'; perhaps max_model_len"),
    ],
)
def test_wrong_options_are_named_as_they_were_given(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        engine_options(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": -1}, "max_tokens: input should be greater"),
        ({"prompt_logprobs": 1, "prompt_logprob_start": -1}, "prompt_logprob_start: input should"),
        ({"prompt_logprob_start": 1}, "prompt_logprob_start: needs the logprobs"),
        ({"logprobs": -1}, "logprobs: -1, the whole vocabulary"),
        ({"logprobs": 21}, "logprobs: "),
        ({"stop": "x", "detokenize": False}, "stop: needs the text"),
        ({"temperature": 3}, "temperature: "),
        ({"min_tokens": 17}, "min_tokens: exceeds"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        SamplingParams(**values)
    with pytest.raises(TypeError, match="max_completion_tokens"):
        SamplingParams(max_completion_tokens=5)  # type: ignore[call-arg]


def test_parameters_may_be_changed_before_a_call(llm: LLM) -> None:
    params = llm.get_default_sampling_params()
    assert params.max_tokens == 16
    params.temperature, params.max_tokens, params.ignore_eos = 0.0, 3, True
    (out,) = llm.generate("fish", params, use_tqdm=False)
    assert len(out.outputs[0].token_ids) == 3
    params.temperature = 9
    with pytest.raises(InvalidRequestError, match="temperature"):
        llm.generate("fish", params, use_tqdm=False)


@pytest.mark.parametrize("name", [n for n, f in CALL_OPTIONS.items() if isinstance(f, Refused)])
def test_arguments_that_are_not_honoured_are_refused_by_name(llm: LLM, name: str) -> None:
    said = [{"role": "user", "content": "hi"}]
    for call in (
        lambda **more: llm.generate("fish", **more),
        lambda **more: llm.chat(said, **more),
    ):
        with pytest.raises(OptionError, match=f"^{name}="):
            call(**{name: "something"})


def test_one_prompt_and_prompts_as_mappings(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    ids = tokenizer("see the fish").input_ids
    several = ["see the fish", ids, {"prompt": "see the fish"}, {"prompt_token_ids": ids}]
    several.append({"prompt_token_ids": ids, "prompt": "said so"})
    outs = llm.generate(several, GREEDY, use_tqdm=False, priority=[0] * 5)
    assert [out.prompt for out in outs] == ["see the fish", None, "see the fish", None, "said so"]
    assert [out.prompt_token_ids for out in outs] == [ids] * 5
    assert len({out.request_id for out in outs}) == 5
    assert all(out.outputs == outs[0].outputs for out in outs)
    for alone in several:
        assert llm.generate(alone, GREEDY, use_tqdm=False)[0].outputs == outs[0].outputs


def test_without_detokenizing(llm: LLM) -> None:
    wanted = SamplingParams(temperature=0, max_tokens=4, detokenize=False, logprobs=1)
    (with_text,) = llm.generate("fish", GREEDY, use_tqdm=False)
    (out,) = llm.generate("fish", wanted, use_tqdm=False)
    assert out.outputs[0].text == ""
    assert out.outputs[0].token_ids == with_text.outputs[0].token_ids
    first = (out.outputs[0].logprobs or [])[0]
    assert [entry.decoded_token for entry in first.values()] == [None]


def test_logprobs_are_mappings(llm: LLM) -> None:
    params = SamplingParams(temperature=1, seed=7, max_tokens=6, logprobs=2)
    output = llm.generate("fish", params, use_tqdm=False)[0].outputs[0]
    assert output.logprobs is not None
    total = 0.0
    for token, entries in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entries)) == token
        assert {1, 2} <= {entry.rank for entry in entries.values()}
        assert entries[token].decoded_token == llm.get_tokenizer().decode([token])
        total += entries[token].logprob
    assert output.cumulative_logprob == pytest.approx(total)
    assert output.finish_reason == "length"


@pytest.mark.long
def test_unseeded_draws_repeat_with_the_seed_of_the_model() -> None:
    def drawn(**options: Any) -> list[list[int]]:
        llm = LLM(max_num_batched_tokens=64, kv_memory="8MiB", **options)
        params = SamplingParams(max_tokens=8, temperature=2.0, ignore_eos=True)
        outs = [llm.generate("fish", params, use_tqdm=False)[0] for _ in range(2)]
        llm.close()
        return [out.outputs[0].token_ids for out in outs]

    first, second = drawn()
    assert first != second
    assert drawn(seed=0) == [first, second]
    assert drawn(seed=1) != [first, second]
    assert drawn(seed=None) != [first, second]


def test_another_tokenizer(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    tokenizer.chat_template = "{{ messages[-1].content }}"
    tokenizer.save_pretrained(tmp_path)
    llm = LLM(tokenizer=str(tmp_path), max_num_batched_tokens=64, kv_memory="8MiB")
    (out,) = llm.chat([{"role": "user", "content": "fish"}], GREEDY, use_tqdm=False)
    assert out.prompt == "fish"


SAID = [{"role": "user", "content": "see"}, {"role": "assistant", "content": "the fi"}]
TOOL = {
    "type": "function",
    "function": {"name": "catch", "description": "Catch a fish.", "parameters": {"type": "object"}},
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"chat_template": "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"},
        {"chat_template": "{% for m in messages %}{{ m.content ~ x }}{% endfor %}",
         "chat_template_kwargs": {"x": "!"}},
        {"chat_template": "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}",
         "tools": [TOOL]},
    ],
)  # fmt: skip
def test_chats_are_rendered_as_transformers_renders_them(llm: LLM, options: dict[str, Any]) -> None:
    given = dict(options)
    kwargs = given.pop("chat_template_kwargs", {})
    arguments = {"add_generation_prompt": True, **given, **kwargs}
    expected = llm.get_tokenizer().apply_chat_template(SAID, tokenize=False, **arguments)
    one, (first, second) = (
        llm.chat(SAID, GREEDY, False, **options),
        llm.chat([SAID, SAID], GREEDY, use_tqdm=False, **options),
    )
    assert [out.prompt for out in (*one, first, second)] == [expected] * 3
    assert one[0].outputs == first.outputs == second.outputs


@pytest.mark.parametrize(
    ("template", "param"),
    [
        ("{{ messages[-1].content }}", "tools[0].function.name"),
        ("{{ messages[-1].content ~ tools[0].function.name }}", "tools[0].function.description"),
    ],
)
def test_tools_that_do_not_arrive_are_refused(llm: LLM, template: str, param: str) -> None:
    said = [{"role": "user", "content": "fish"}]
    (out,) = llm.chat(said, GREEDY, False, chat_template=template, tools=[TOOL])
    assert out.error is not None
    assert out.error.param == param
    assert out.outputs == []


def test_a_final_message_is_not_continued_and_answered(llm: LLM) -> None:
    with pytest.raises(OptionError, match="add_generation_prompt=False"):
        llm.chat(SAID, GREEDY, continue_final_message=True)


def test_every_honoured_field_has_a_meaning() -> None:
    for fates in (sampling_fates(), LLM_OPTIONS, CALL_OPTIONS):
        assert all(fate.meaning for fate in fates.values() if isinstance(fate, Honoured))
