"""Answers of model families, read into reasoning, calls and content."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.detokenize import Detokenizer
from shoal.answers.reading import AnswerReader, ChatAnswer, ToolCall
from shoal.types import Choice, RequestParams
from tests.helpers.tool_models import TOOLS, tool_tokenizer

TOOL_TEXT = json.dumps(TOOLS)
PROMPTS = {
    "qwen": "<|im_start|>user\nwhat is <think> for?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST]hi[/INST]",
    "mistral_args": "<s>[INST]hi[/INST]",
    "gpt_oss": "<|start|>user<|message|>hi<|end|><|start|>assistant",
    "qwen3_coder": "<|im_start|>assistant\n",
    "glm45": "<|im_start|>assistant\n",
    "llama4": "<|header_start|>assistant<|header_end|>\n\n",
}
NOW = ToolCall("now", '{"zone": "UTC"}')
HERMES = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
WEATHER = '<tool_call>{"name": "get_weather", "arguments": {"city": "é", "days": 2}}</tool_call>'


def read(
    family: str, text: str, *, prompt: str = "", form: Any = None, **params: Any
) -> ChatAnswer:
    tokenizer = tool_tokenizer(family)
    params = {"tools": TOOL_TEXT, **params}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer(prompt or PROMPTS[family], add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tokenizer)
    wanted = RequestParams(**params)
    shown = detokenizer.text(ids, wanted.skip_special_tokens)
    reader = AnswerReader(detokenizer, form or AnswerFormat.find(tokenizer))
    choice = Choice(0, shown, tuple(ids), "stop")
    return reader.read(choice, np.array(before, dtype=np.int32), wanted)


@pytest.mark.parametrize(
    ("family", "text", "content", "calls"),
    [
        ("qwen", HERMES, None, [NOW]),
        ("qwen", f"I look.\n\n{HERMES}\n{WEATHER}", "I look.",
         [NOW, ToolCall("get_weather", '{"city": "é", "days": 2}')]),
        ("qwen", f"{HERMES} and\n{HERMES} then", "and then", [NOW, NOW]),
        ("qwen", HERMES.removesuffix("</tool_call>"), None, [NOW]),
        ("llama3", '{"name": "now", "parameters": {"zone": "UTC"}}', None, [NOW]),
        ("llama3", '<|python_tag|>{"name": "now", "parameters": {"zone": "UTC"}}', None, [NOW]),
        ("llama3", '{"name": "now", "parameters": {"zone": "UTC"}}; {"name": "now", "parameters": '
         '{"zone": "a; {\\"name\\": 1"}}', None,
         [NOW, ToolCall("now", '{"zone": "a; {\\"name\\": 1"}')]),
        ("mistral", '[TOOL_CALLS][{"name": "now", "arguments": {"zone": "UTC"}}]', None, [NOW]),
        ("mistral", 'So: [TOOL_CALLS] [{"name": "now", "arguments": {"zone": "UTC"}}, '
         '{"name": "now", "arguments": {}}]', "So:", [NOW, ToolCall("now", "{}")]),
        ("mistral_args", '[TOOL_CALLS]now[ARGS]{"zone": "UTC"}[TOOL_CALLS]now{"zone": "[x]"}',
         None, [NOW, ToolCall("now", '{"zone": "[x]"}')]),
    ],
)  # fmt: skip
def test_calls(family: str, text: str, content: str | None, calls: list[ToolCall]) -> None:
    assert read(family, text) == ChatAnswer(content, None, tuple(calls))


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen", " plain text\n"),
        ("qwen", '<tool_call>{"name": "now", "arguments": {"zone": </tool_call> so'),
        ("qwen", '<tool_call>{"name": "now", "argum'),
        ("qwen", '<tool_call>{"name": "later", "arguments": {}}</tool_call>'),
        ("qwen", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        ("qwen", '<tool_call>{"name": "now", "arguments": {"zone": NaN}}</tool_call>'),
        ("qwen", '<tool_call>{"arguments": {}}</tool_call>'),
        ("qwen", "<tool_call>" + '{"a":' * 5000),
        ("llama3", '{"name": "Ann", "parameters": {}}'),
        ("llama3", '{"name": "now", "parameters": {}} is what I would call'),
        ("llama3", 'ToolCall {"name": "now", "parameters": {}}'),
        ("mistral", 'no [{"name": "now", "arguments": {}}]'),
        ("mistral", "[TOOL_CALLS]"),
    ],
)
def test_what_is_no_call_stays_content(family: str, text: str) -> None:
    shown = text.replace("[TOOL_CALLS]", "")
    assert read(family, text) == ChatAnswer(shown)


def test_without_tools_nothing_is_a_call() -> None:
    assert read("qwen", HERMES, tools=None) == ChatAnswer(HERMES)


def test_one_call_where_there_may_be_but_one() -> None:
    assert read("qwen", HERMES + WEATHER, parallel_tool_calls=False).calls == (NOW,)


def test_arguments_are_json_whatever_is_in_them() -> None:
    for zone in ('"\\ud800"', "1e999", "12345678901234567890123", '"\\u0000\\n"'):
        text = HERMES.replace('"UTC"', zone)
        answer = read("qwen", text)
        if zone == "1e999":
            assert answer == ChatAnswer(text)
            continue
        (call,) = answer.calls
        assert json.loads(call.arguments) == {"zone": json.loads(zone)}
        assert call.arguments.encode()


@pytest.mark.parametrize(
    ("text", "prompt", "content", "reasoning"),
    [
        ("<think>\nhm\n</think>\n\nso", "", "so", "hm"),
        ("hm\n</think>\n\nso\n", "<think>\n", "so\n", "hm"),
        ("hm</think>so", "", "so", "hm"),
        ("<think>it is cut", "", "", "it is cut"),
        ("it is cut", "<think>\n", "", "it is cut"),
        ("<think>\n\n</think>\n\nso", "", "so", None),
        ("so", "<think>\n\n</think>\n\n", "so", None),
        ("write </think> so", "<think>\n\n</think>\n\n", "write </think> so", None),
        ("nothing thought", "", "nothing thought", None),
        ("<think>a</think>b<think>c</think>d", "", "bd", "a\nc"),
    ],
)
def test_reasoning(text: str, prompt: str, content: str, reasoning: str | None) -> None:
    for tools in (None, TOOL_TEXT):
        answer = read("qwen", text, prompt=PROMPTS["qwen"] + prompt, tools=tools)
        assert (answer.content, answer.reasoning) == (content, reasoning)


def test_reasoning_tokens_are_those_up_to_its_mark() -> None:
    assert read("qwen", "<think>\nhm</think>\nso").reasoning_tokens == 5
    assert read("qwen", "é</think>so", prompt="<think>\n").reasoning_tokens == 3
    assert read("qwen", "<think>cut").reasoning_tokens == 4
    assert read("qwen", "not at all").reasoning_tokens == 0


def test_calls_after_reasoning() -> None:
    thought = f"<think>I may {HERMES} now</think>\n\n{WEATHER}"
    answer = read("qwen", thought)
    assert answer.reasoning == f"I may {HERMES} now"
    assert [call.name for call in answer.calls] == ["get_weather"]
    broken = read("qwen", "<think>hm</think>\n\n<tool_call>{</tool_call>")
    assert (broken.reasoning, broken.content) == ("hm", "<tool_call>{</tool_call>")


def test_marks_that_are_special_tokens() -> None:
    answer = read("mistral", "[THINK]hm[/THINK]so <s>[INST]", prompt="[INST]x[/INST]")
    assert (answer.content, answer.reasoning) == ("so ", "hm")
    shown = read("mistral", "[THINK]hm[/THINK]so [INST]", skip_special_tokens=False)
    assert (shown.content, shown.reasoning) == ("so [INST]", "hm")


def test_a_form_may_be_named_or_none() -> None:
    tokenizer = tool_tokenizer("qwen")
    plain = AnswerFormat.find(tokenizer, "none", "none")
    assert read("qwen", f"<think>a</think>{HERMES}", form=plain).content == (
        f"<think>a</think>{HERMES}"
    )
    llama = AnswerFormat.find(tokenizer, "llama3_json", "deepseek_r1")
    answer = read("qwen", '<think>a</think>{"name": "now", "parameters": {}}', form=llama)
    assert answer.reasoning == "a"


OWN = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<|im_start|>", "close": "<|im_end|>"},
        "tool_calls": {
            "open_pattern": r"CALL (?P<name>\w+)",
            "close": ";",
            "repeats": True,
            "content": "json",
            "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"content": "text"},
    },
}


def test_a_checkpoints_own_template_wins() -> None:
    tokenizer = tool_tokenizer("qwen")
    tokenizer.response_template = OWN
    form = AnswerFormat.find(tokenizer)
    answer = read("qwen", '<|im_start|>hm<|im_end|>so CALL now{"zone": "UTC"};', form=form)
    assert answer == ChatAnswer("so", "hm", (NOW,), 4)
    begun = read("qwen", "hm<|im_end|>so", prompt=PROMPTS["qwen"] + "<|im_start|>", form=form)
    assert (begun.content, begun.reasoning, begun.reasoning_tokens) == ("so", "hm", 3)
    assert read("qwen", "<think>a</think>", form=form).content == "<think>a</think>"
