"""Grammars of answers that call tools, and of answers that come after reasoning.

Texts are llguidance's, as in `shoal.answers.structure`: Lark, or several of them as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shoal.answers.answer_format import AnswerFormat, Reasoning
from shoal.answers.formats import ARGUMENTS, NAME, NAME_JSON, SPACE, CallFormat
from shoal.answers.structure import Structure, finished, quoted
from shoal.prompts.refusals import wrong_value

_PATTERN = "[ \\n]{0,4}"
"""White space where models write some; bounded, so that none falls into it."""
_SPACE = f"WS: /{_PATTERN}/"
_THINKING = "(?s:.*)"


def calls_structure(
    form: AnswerFormat, tools: Sequence[Mapping[str, Any]], name: str | None, several: bool
) -> Structure:
    """The structure of an answer that is a call of a tool, or several, and nothing else.

    Args:
        tools: checked.
        name: of the one function that is called; None: any.
        several: whether there may be more than one.

    Raises:
        InvalidRequestError: a function's parameters are no schema that can be had.
    """
    calls = form.calls
    assert calls is not None
    rules, names = [], []
    for i, tool in enumerate(tools):
        function = tool["function"]
        if name not in (None, function["name"]):
            continue
        names.append(f"call_{i}")
        rules.append(f"call_{i}: {_parts(calls.call, form, function['name'], f'args_{i}')}")
        rules.append(f"args_{i}: %json {_schema(function, f'body.tools[{i}].function.parameters')}")
    return finished(_lark(calls, form, names, rules, several), "body.tools")


def _lark(
    calls: CallFormat, form: AnswerFormat, names: list[str], rules: list[str], several: bool
) -> str:
    before, between, after = (
        _parts(parts, form) for parts in (calls.before, calls.between, calls.after)
    )
    more = f"({between} call)*" if several and calls.several else ""
    return "\n".join(
        [f"start: {before} call {more} {after}", f"call: {' | '.join(names)}", *rules, _SPACE]
    )


def _parts(parts: Sequence[object], form: AnswerFormat, name: str = "", arguments: str = "") -> str:
    """Parts of a call as Lark writes them."""
    known = {
        SPACE: "WS",
        NAME: quoted(name),
        NAME_JSON: quoted(json.dumps(name, ensure_ascii=False)),
        ARGUMENTS: arguments,
    }
    return " ".join(known.get(part) or _text(str(part), form) for part in parts)


def _text(text: str, form: AnswerFormat) -> str:
    token = form.special.get(text)
    return quoted(text) if token is None else f"<[{token}]>"


def _schema(function: Mapping[str, Any], param: str) -> str:
    """The schema of a function's arguments, which are an object."""
    given = {"type": "object", **(function.get("parameters") or {})}
    given.setdefault("x-guidance", {"whitespace_pattern": _PATTERN})
    try:
        return orjson.dumps(given).decode()
    except TypeError as error:
        raise wrong_value(param, f"is nested too deeply, or no JSON ({error})") from None


def either(calls: Structure, other: Structure) -> Structure:
    """An answer that calls tools, or one of another structure."""
    parts = {"calls": calls.grammar, "other": other.grammar}
    return finished_several("start: @calls | @other", parts, other.param)


def after_reasoning(structure: Structure, form: AnswerFormat, begun: Reasoning) -> Structure:
    """The structure of an answer whose reasoning is held to nothing.

    Args:
        begun: what of the reasoning stands in the prompt.
    """
    if form.reasoning is None or begun is Reasoning.closed:
        return structure
    close = form.reasoning.close
    if close in form.special:
        thinking = f"thinking: THINKING {_text(close, form)}\nTHINKING: /{_THINKING}/"
    else:
        thinking = f"thinking[suffix={quoted(close)}]: /{_THINKING}/"
    start = "start: thinking WS @answer"
    if begun is Reasoning.none:
        start = f"start: ({_text(form.reasoning.open, form)} thinking WS)? @answer"
    parts = {"answer": structure.grammar}
    return finished_several(f"{start}\n{thinking}\n{_SPACE}", parts, structure.param)


def finished_several(text: str, parts: Mapping[str, str], param: str) -> Structure:
    """A structure of a grammar that speaks of others as `@name`; those may be of several, too."""
    grammars: list[dict[str, str]] = []
    for name, part in parts.items():
        if not part.startswith("{"):
            grammars.append({"name": name, "lark_grammar": part})
            continue
        inner = orjson.loads(part)["grammars"]  # its first is the one to begin with
        grammars += [{**inner[0], "name": name}, *inner[1:]]
    first = finished(text, param)
    whole = json.dumps({"grammars": [{"lark_grammar": first.grammar}, *grammars]})
    return finished(whole, param, directive=False)
