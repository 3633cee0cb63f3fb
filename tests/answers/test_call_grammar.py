"""Grammars of calls, by form: what may be drawn is read as a call that keeps its schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.call_grammar import (
    AskedCalls,
    after_reasoning,
    calls_structure,
    one_call_at_most,
)
from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import Structure, of_schema
from shoal.errors import InvalidRequestError
from tests.answers.test_grammar import allowed
from tests.answers.test_reading import PROMPTS, read
from tests.helpers.tool_models import TEMPLATES, TOOLS, tool_tokenizer

END = 1
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 2}, "age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {}},
    {
        "type": "object",
        "properties": {
            "a": {"type": "string", "minLength": 1, "maxLength": 2},
            "b": {"type": "boolean"},
            "c": {"$ref": "#/$defs/person"},
            "d": {"enum": ["x", 'é"', 3, None]},
        },
        "required": ["b", "c"],
        "additionalProperties": False,
        "$defs": {"person": PERSON},
    },
    {
        "properties": {
            "p": {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"},
            "q": {"anyOf": [{"type": "string", "pattern": "^[ab/]$"}, {"type": "null"}]},
            "r": {"type": ["array", "null"], "items": {"type": "integer"}, "maxItems": 2},
            "s": {"const": "on\ne"},
        },
        "required": ["p", "q", "s"],
        "additionalProperties": False,
    },
    {
        "properties": {"m": {"type": "number", "minimum": 0, "maximum": 9}},
        "required": ["m"],
        "additionalProperties": False,
    },
]


def tools_of(schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": f"f{i}", "parameters": schema}}
        for i, schema in enumerate(schemas)
    ]


def compiler_of(family: str) -> GrammarCompiler:
    tokenizer = tool_tokenizer(family)
    return GrammarCompiler(tokenizer, len(tokenizer), (END,))


def drawn(compiler: GrammarCompiler, grammar: str, size: int, seed: int) -> list[int] | None:
    """Tokens of an answer that ends; None: it got too long."""
    rng = np.random.default_rng(seed)
    matcher = compiler.matcher(grammar)
    tokens: list[int] = []
    while len(tokens) < 400:
        may = allowed(compiler, matcher, size)
        token = END if END in may else int(rng.choice(may))
        if token == END:
            return tokens
        compiler.consume([(matcher, token)])
        assert not matcher.is_error()
        tokens.append(token)
    return None


@pytest.mark.long
@pytest.mark.parametrize("family", TEMPLATES)
def test_whatever_is_drawn_is_a_call_that_keeps_its_schema(family: str) -> None:
    tokenizer = tool_tokenizer(family)
    compiler, form = compiler_of(family), AnswerFormat.find(tokenizer)
    tools = tools_of(SCHEMAS)
    ended = 0
    for number in range(len(tools)):
        asked = AskedCalls(tools, f"f{number}", several=False)
        structure = calls_structure(form, asked)
        for seed in range(6 if number > 1 else 1):
            tokens = drawn(compiler, structure.grammar, len(tokenizer), seed)
            if tokens is None:
                continue
            ended += 1
            text = tokenizer.decode(tokens, skip_special_tokens=False)
            (call,) = read(family, text, tools=json.dumps(tools), skip_special_tokens=False).calls
            assert call.name == f"f{number}"
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[number])
    assert ended > 7


def fits(family: str, structure: Structure, text: str) -> bool:
    """Whether a text is an answer of this structure, to its end."""
    compiler, tokenizer = compiler_of(family), tool_tokenizer(family)
    matcher = compiler.matcher(structure.grammar)
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if not matcher.consume_token(token):
            return False
    return matcher.is_accepting()


NOW = {
    "qwen": '<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>',
    "llama3": '{"name": "now", "parameters": {"zone": "UTC"}}',
    "mistral": '[TOOL_CALLS][{"name": "now", "arguments": {"zone": "UTC"}}]',
    "mistral_args": '[TOOL_CALLS]now[ARGS]{"zone": "UTC"}',
    "qwen3_coder": "<tool_call>\n<function=now>\n<parameter=zone>\nUTC\n</parameter>\n</function>\n"
    "</tool_call>",
    "glm45": "<tool_call>now\n<arg_key>zone</arg_key>\n<arg_value>UTC</arg_value>\n</tool_call>",
    "llama4": '[now(zone="UTC")]',
}


@pytest.mark.parametrize("family", NOW)
def test_one_call_at_most(family: str) -> None:
    form = AnswerFormat.find(tool_tokenizer(family))
    structure = one_call_at_most(form, AskedCalls(TOOLS))
    assert structure is not None
    call = NOW[family]
    assert fits(family, structure, call)
    assert fits(family, structure, call + "\n")
    assert not fits(family, structure, call + " so")
    assert not fits(family, structure, f"{call}{call}")
    assert not fits(family, structure, call.replace("UTC", "CET"))
    for free in ("", "so", "a < b {[ </tool_call>", '{"name": "nobody"}', "[nowhere, 3]"):
        assert fits(family, structure, free)
    anchored = family.startswith("llama")
    assert fits(family, structure, f"I look.\n{call}")
    assert fits(family, structure, f"I look.\n{call}{call}") == anchored


def test_several_calls_of_a_python_list() -> None:
    form = AnswerFormat.find(tool_tokenizer("llama4"))
    both = '[now(zone="UTC"), get_weather(city="Oslo", days=2)]'
    assert fits("llama4", calls_structure(form, AskedCalls(TOOLS)), both)
    assert not fits("llama4", calls_structure(form, AskedCalls(TOOLS, several=False)), both)


def test_a_call_is_the_end_of_an_answer_in_channels() -> None:
    form = AnswerFormat.find(tool_tokenizer("gpt_oss"))
    assert one_call_at_most(form, AskedCalls(TOOLS)) is None


@pytest.mark.parametrize("family", ["qwen3_coder", "glm45"])
def test_texts_stand_as_they_are(family: str) -> None:
    form = AnswerFormat.find(tool_tokenizer(family))
    tools = tools_of([{"properties": {"x": {"type": "string"}}, "required": ["x"]}])
    structure = calls_structure(form, AskedCalls(tools))
    end = "</parameter>" if family == "qwen3_coder" else "</arg_value>"
    for text in ("", "a", 'two\n\n"lines" <b> </', "null", "7"):
        call = NOW[family].replace("now", "f0").replace("zone", "x").replace("UTC", text)
        assert fits(family, structure, call)
        (read_back,) = read(family, call, tools=json.dumps(tools)).calls
        assert json.loads(read_back.arguments) == {"x": text}
        assert not fits(family, structure, call.replace(end, f"{end}{end}"))


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"properties": {"a": {"type": "string", "format": "date"}}}, "a.format"),
        ({"properties": {"a": {"type": "string", "pattern": "^a|b$"}}}, "a.pattern"),
        ({"properties": {"a": {"type": ["string", "integer"], "maxLength": 2}}}, "a"),
        ({"properties": {"a": {"not": {}}}}, "a.not"),
        ({"properties": {"a b": {}}}, "a b"),
        ({"properties": {}, "minProperties": 1}, "minProperties"),
        ({"anyOf": [{"type": "object"}]}, "anyOf"),
        ({"type": "array"}, "type"),
        ({"properties": {"a": {"enum": ["</parameter>"]}}}, "a"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(schema: dict[str, Any], param: str) -> None:
    form = AnswerFormat.find(tool_tokenizer("qwen3_coder"))
    with pytest.raises(InvalidRequestError) as caught:
        calls_structure(form, AskedCalls(tools_of([schema])))
    assert str(caught.value.param).startswith("body.tools[0].function.parameters")
    assert str(caught.value.param).split("[0].function.parameters.")[1].endswith(param)
    assert str(caught.value.param) in caught.value.message


def test_answers_after_channels() -> None:
    """A schema holds for what is final; analysis before it is free."""
    form = AnswerFormat.find(tool_tokenizer("gpt_oss"))
    structure = of_schema({"type": "integer"}, "")
    analysis, final = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
    following = "<|end|><|start|>assistant"

    def held(prompt: str) -> Structure:
        return after_reasoning(structure, form, form.reasoning_in(prompt))

    free = held(PROMPTS["gpt_oss"])
    for text in (f"{final}7", f"{analysis}hm{following}{final}7",
                 f"{analysis}a{following}{analysis}b{following}{final}7"):  # fmt: skip
        assert fits("gpt_oss", free, text)
        assert not fits("gpt_oss", free, text.replace("7", "x"))
    begun = held(PROMPTS["gpt_oss"] + analysis)
    assert fits("gpt_oss", begun, f"hm{following}{final}7")
    assert not fits("gpt_oss", begun, "7")
    assert fits("gpt_oss", held(PROMPTS["gpt_oss"] + final), "7")
