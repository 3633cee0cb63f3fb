"""What an answer is to look like: OpenAI's and vLLM's forms of asking, as one grammar's text.

The text is llguidance's: a Lark grammar, in which a JSON schema may stand. It is a function of what
was asked, so requests that ask for the same share it. `shoal.answers.grammar` compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from shoal.answers.endless_schema import is_endless
from shoal.prompts.refusals import kind_of, missing, unsupported, wrong_value

ANY_OBJECT = {"type": "object"}
"""The schema behind `json_object`."""

WHITE_SPACE = "[ \\n]{0,4}"
"""The pattern of white space within calls; bounded, so that no model falls into it."""

_KINDS = ("json", "regex", "choice", "grammar", "json_object")
_WHITESPACE = {"whitespace_pattern": str, "disable_any_whitespace": bool}
_LONGEST = 1 << 20
"""Bytes of a grammar; compiling recurses over its rules, and room for that is limited."""
# Whoever writes the same text in other tokens than the tokenizer would is right, too: so the text a
# model gives with a grammar is the text it gives without one, where that was valid. The last
# directive holds, and at the end of the text it moves no line numbers of messages.
_END = '\n%llguidance {"no_forcing": true}\n'


@dataclass(frozen=True)
class Structure:
    """A grammar's text, and the field that asks for it; `schema` is the JSON schema behind it."""

    grammar: str
    param: str
    schema: Mapping[str, Any] | None = field(default=None, compare=False)


def of_response_format(given: Mapping[str, Any], param: str) -> Structure | None:
    """The structure that OpenAI's `response_format` asks for; None: `text`.

    Raises:
        InvalidRequestError: it is wrong; whether a schema is supported is found out later.
    """
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return of_schema(ANY_OBJECT, param)
    if kind != "json_schema":
        raise wrong_value(f"{param}.type", 'must be "text", "json_object" or "json_schema"')
    inner = given.get("json_schema")
    if inner is None:
        raise missing(f"{param}.json_schema")
    if not isinstance(inner, dict):
        raise wrong_value(f"{param}.json_schema", f"must be an object, not {kind_of(inner)}")
    schema = inner.get("schema")
    if schema is None:
        raise missing(f"{param}.json_schema.schema")
    return of_schema(schema, f"{param}.json_schema.schema")


def of_structured_outputs(given: Mapping[str, Any], param: str) -> Structure:
    """The structure that vLLM's `structured_outputs` asks for, its fields by name.

    Raises:
        InvalidRequestError: none or several of them are given, or one is wrong or not honoured.
    """
    asked = {name: v for name, v in given.items() if v is not None and v is not False}
    for name in asked:
        if name not in (*_KINDS, *_WHITESPACE):
            raise unsupported(f"{param}.{name}", f"give one of {', '.join(_KINDS)}")
    kinds = [name for name in _KINDS if name in asked]
    if len(kinds) != 1:
        raise wrong_value(param, f"must have one of {', '.join(_KINDS)}; it has {len(kinds)}")
    (kind,) = kinds
    value, where = asked[kind], f"{param}.{kind}"
    spaces = _whitespace(asked, param)
    if spaces and kind not in ("json", "json_object"):
        name = next(name for name in _WHITESPACE if name in asked)
        raise wrong_value(f"{param}.{name}", "is for JSON alone; remove it")
    if kind == "json":
        return of_schema(value, where, spaces)
    if kind == "json_object":
        if value is not True:
            raise wrong_value(where, f"must be true or false, not {kind_of(value)}")
        return of_schema(ANY_OBJECT, where, spaces)
    if kind == "choice":
        return finished(_choice(value, where), where)
    if not isinstance(value, str):
        raise wrong_value(where, f"must be a string, not {kind_of(value)}")
    _check_size(value, where)
    text = _regex(value, where) if kind == "regex" else _lark(value, where)
    return finished(text, where)


def of_schema(schema: object, param: str, options: Mapping[str, Any] | None = None) -> Structure:
    """The structure of a JSON schema, an object or its text; properties keep their order.

    Args:
        options: llguidance's, for example `whitespace_flexible`; they win over `x-guidance`.

    Raises:
        InvalidRequestError: it is no JSON object, or no answer to it could ever end.
    """
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise wrong_value(param, f"is not JSON: {error}") from None
    if not isinstance(schema, Mapping):
        raise wrong_value(param, f"must be a JSON schema (an object), not {kind_of(schema)}")
    if is_endless(schema):
        raise wrong_value(
            param,
            "has no answer that ends: what it requires holds the same again, without an end; "
            "make that optional, or let it be null",
        )
    asked = schema
    if options:
        own = schema.get("x-guidance")
        schema = {**schema, "x-guidance": {**(own if isinstance(own, dict) else {}), **options}}
    try:
        text = orjson.dumps(dict(schema)).decode()
    except TypeError as error:
        raise wrong_value(param, f"is nested too deeply, or no JSON ({error})") from None
    return finished(f"start: %json {text}", param, schema=asked)


def _whitespace(asked: Mapping[str, Any], param: str) -> dict[str, Any]:
    """llguidance's names of vLLM's options."""
    for name, kind in _WHITESPACE.items():
        if name in asked and not isinstance(asked[name], kind):
            raise wrong_value(f"{param}.{name}", f"must not be {kind_of(asked[name])}")
    found: dict[str, Any] = {}
    if "disable_any_whitespace" in asked:
        found["whitespace_flexible"] = False
    if "whitespace_pattern" in asked:
        found["whitespace_pattern"] = asked["whitespace_pattern"]
    return found


def _choice(value: object, param: str) -> str:
    if not isinstance(value, list | tuple) or not value:
        raise wrong_value(param, "must be an array of strings, at least one")
    if not all(isinstance(each, str) and each for each in value):
        raise wrong_value(param, "must hold strings that are not empty")
    return "start: " + " | ".join(quoted(each) for each in value)


def quoted(text: str) -> str:
    """A string as Lark writes it: JSON's, but that DEL is no character of it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _regex(value: str, param: str) -> str:
    if not value:
        raise wrong_value(param, "is empty")
    return f"start: /{regex_to_lark(value, '')}/"


def _lark(value: str, param: str) -> str:
    """A grammar that is Lark's already, or becomes it: GBNF, as xgrammar and llama.cpp read it."""
    try:
        text: str = any_to_lark(value)
    except Exception as error:  # the converter raises whatever it comes across
        raise wrong_value(param, f"is neither Lark (`start: ...`) nor GBNF ({error})") from None
    return text


def finished(
    text: str, param: str, *, directive: bool = True, schema: Mapping[str, Any] | None = None
) -> Structure:
    """The structure of a grammar's text.

    Args:
        directive: whether it needs the last one; a list of whole grammars does not.
        schema: what the text says, if it is one.

    Raises:
        InvalidRequestError: it is too long, or no text.
    """
    _check_size(text, param)
    return Structure(text + _END if directive else text, param, schema)


def _check_size(text: str, param: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise wrong_value(param, "holds half a character (a lone surrogate)") from None
    if size > _LONGEST:
        raise wrong_value(param, f"has {size:,} bytes; at most {_LONGEST:,} are compiled")
