"""Calls and reasoning as gpt-oss, Qwen3-Coder, GLM-4.5 and Llama 4 write them, read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.answers.reading import ChatAnswer, ToolCall
from tests.answers.test_reading import PROMPTS, read
from tests.helpers.tool_models import TOOLS

NOW = ToolCall("now", '{"zone": "UTC"}')
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"
CALL = 'commentary to=functions.now <|constrain|>json<|message|>{"zone": "UTC"}<|call|>'
QWEN = "<tool_call>\n<function=now>\n<parameter=zone>\nUTC\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>now\n<arg_key>zone</arg_key>\n<arg_value>UTC</arg_value>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "content", "reasoning", "calls"),
    [
        (f"{FINAL}so", "so", None, ()),
        (f"{ANALYSIS}hm{NEXT}{FINAL}so\n", "so\n", "hm", ()),
        (f"{ANALYSIS}a{NEXT}{ANALYSIS}b{NEXT}{FINAL}so", "so", "a\nb", ()),
        (f"{ANALYSIS}it is cut", "", "it is cut", ()),
        (f"{ANALYSIS}hm{NEXT}<|channel|>{CALL}", None, "hm", (NOW,)),
        (f"<|channel|>{CALL}", None, None, (NOW,)),
        (' to=functions.now<|channel|>commentary json<|message|>{"zone": "UTC"}<|call|>', None,
         None, (NOW,)),
        (f"<|channel|>commentary<|message|>I look.{NEXT}<|channel|>{CALL}", "I look.", None,
         (NOW,)),
        (f"<|channel|>commentary<|message|>I look.{NEXT}{FINAL}so", "I look.\nso", None, ()),
        (f"{FINAL.replace('<|message|>', ' <|constrain|>json<|message|>')}{{}}", "{}", None, ()),
        ("no channel at all", "no channel at all", None, ()),
    ],
)  # fmt: skip
def test_channels(text: str, content: str | None, reasoning: str | None, calls: Any) -> None:
    answer = read("gpt_oss", text)
    assert (answer.content, answer.reasoning, answer.calls) == (content, reasoning, calls)
    if reasoning and "\n" not in reasoning:
        assert answer.reasoning_tokens == 3 + len("analysis") + len(reasoning) - ("cut" in text)


def test_channels_that_the_prompt_began() -> None:
    begun = read("gpt_oss", f"hm{NEXT}{FINAL}so", prompt=PROMPTS["gpt_oss"] + ANALYSIS)
    assert (begun.content, begun.reasoning) == ("so", "hm")
    over = read("gpt_oss", "so", prompt=PROMPTS["gpt_oss"] + FINAL)
    assert (over.content, over.reasoning) == ("so", None)


def test_a_call_that_is_none_stays_content() -> None:
    text = CALL.replace("UTC", "UTC<|call|>")
    assert read("gpt_oss", f"<|channel|>{text}").calls == ()
    assert read("gpt_oss", f"<|channel|>{CALL.replace('now', 'later')}").calls == ()


@pytest.mark.parametrize(
    ("family", "text", "content", "calls"),
    [
        ("qwen3_coder", QWEN, None, [NOW]),
        ("qwen3_coder", f"I look.\n{QWEN}\n{QWEN}", "I look.", [NOW, NOW]),
        ("qwen3_coder", "<tool_call><function=get_weather><parameter=city>\n é\n\n</parameter>"
         "<parameter=days>\n2\n</parameter></function></tool_call>", None,
         [ToolCall("get_weather", '{"city": " é\\n", "days": 2}')]),
        ("qwen3_coder", QWEN.replace("UTC", "</function>\n</tool_call>"), None,
         [ToolCall("now", '{"zone": "</function>\\n</tool_call>"}')]),
        ("qwen3_coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", None,
         [ToolCall("now", "{}")]),
        ("glm45", GLM, None, [NOW]),
        ("glm45", f"I look.\n{GLM}\n{GLM}", "I look.", [NOW, NOW]),
        ("glm45", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>3</arg_value><arg_key>"
         "days</arg_key><arg_value>3</arg_value></tool_call>", None,
         [ToolCall("get_weather", '{"city": "3", "days": 3}')]),
        ("glm45", "<tool_call>now\n</tool_call>", None, [ToolCall("now", "{}")]),
        ("llama4", "[now(zone='UTC')]", None, [NOW]),
        ("llama4", '<|python_start|>[now(zone="UTC"), get_weather(city="\\u00e9\\/", days=2)]'
         "<|python_end|>", None,
         [NOW, ToolCall("get_weather", '{"city": "é/", "days": 2}')]),
        ("llama4", "[now(zone=[True, None, false, {'a': -1.5}, ()])]", None,
         [ToolCall("now", '{"zone": [true, null, false, {"a": -1.5}, []]}')]),
    ],
)  # fmt: skip
def test_calls(family: str, text: str, content: str | None, calls: list[ToolCall]) -> None:
    assert read(family, text) == ChatAnswer(content, None, tuple(calls))


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen3_coder", QWEN.removesuffix("</tool_call>")),
        ("qwen3_coder", QWEN[:-40]),
        ("qwen3_coder", QWEN.replace("</parameter>", "")),
        ("qwen3_coder", QWEN.replace("now", "later")),
        ("glm45", GLM.removesuffix("</tool_call>")),
        ("glm45", GLM.replace("</arg_value>", "")),
        ("glm45", "<tool_call>" + "<arg_key>a</arg_key><arg_value>" * 3000),
        ("llama4", "[now(zone=open('x'))]"),
        ("llama4", "[now('UTC')]"),
        ("llama4", "[now(**{})]"),
        ("llama4", "[now(zone='UTC')] is what I would call"),
        ("llama4", "I would call [now(zone='UTC')]"),
        ("llama4", "[later()]"),
        ("llama4", "[now(zone='UT"),
        ("llama4", "[now(" + "[" * 5000),
    ],
)
def test_what_is_no_call_stays_content(family: str, text: str) -> None:
    assert read(family, text) == ChatAnswer(text)


def test_values_are_read_by_the_types_that_schemas_say() -> None:
    """References, enumerations and unions say them, too."""
    parameters = {
        "type": "object",
        "properties": {
            "who": {"$ref": "#/$defs/person"},
            "level": {"enum": [1, 2]},
            "when": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tags": {"allOf": [{"type": "array"}]},
            "any": {},
        },
        "$defs": {"person": {"type": "object"}},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    values = {"who": '{"a": 1}', "level": "2", "when": "null", "tags": "[1]", "any": "7"}
    text = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items())
    answer = read("qwen3_coder", f"<tool_call>\n<function=f>\n{text}</function>\n</tool_call>",
                  tools=json.dumps([*TOOLS, tool]))  # fmt: skip
    (call,) = answer.calls
    assert json.loads(call.arguments) == {
        "who": {"a": 1}, "level": 2, "when": None, "tags": [1], "any": "7",
    }  # fmt: skip
