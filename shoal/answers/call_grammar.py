"""Grammars of answers that call tools, and of answers that come after reasoning.

Texts are llguidance's, as in `shoal.answers.structure`: Lark, or several of them as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import orjson

from shoal.answers.answer_format import AnswerFormat, Reasoning
from shoal.answers.formats import ARGUMENTS, NAME, NAME_JSON, SPACE, OneOf, Parts
from shoal.answers.parameter_grammar import ParameterRules, pattern_of, schema_text
from shoal.answers.structure import WHITE_SPACE, Structure, finished, quoted

_SPACE = f"WS: /{WHITE_SPACE}/"
_THINKING = "(?s:.*)"


@dataclass(frozen=True)
class AskedCalls:
    """Calls that an answer may have, checked.

    Attributes:
        tools: as given.
        name: of the one function that is called; None: any.
        several: whether there may be more than one.
    """

    tools: Sequence[Mapping[str, Any]]
    name: str | None = None
    several: bool = True

    def functions(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Those that may be called, each with its place among the tools."""
        functions = ((i, tool["function"]) for i, tool in enumerate(self.tools))
        return [(i, each) for i, each in functions if self.name in (None, each["name"])]


def calls_structure(form: AnswerFormat, asked: AskedCalls) -> Structure:
    """The structure of an answer that is a call of a tool, or several, and nothing else.

    Raises:
        InvalidRequestError: a function's parameters are no schema that can be had.
    """
    calls = form.calls
    assert calls is not None
    before, between, after = (
        _parts(parts, form) for parts in (calls.before, calls.between, calls.after)
    )
    names, rules = _call_rules(form, asked, calls.call)
    more = f"({between} call)*" if asked.several and calls.several else ""
    lines = [f"start: {before} call {more} {after}", f"call: {' | '.join(names)}", *rules, _SPACE]
    return finished("\n".join(lines), "body.tools")


def one_call_at_most(form: AnswerFormat, asked: AskedCalls) -> Structure | None:
    """The structure of an answer in which at most one tool is called, the last thing in it.

    The rest is free. None: the form has no more calls anyway.

    Raises:
        InvalidRequestError: see `calls_structure`.
    """
    calls = form.calls
    assert calls is not None
    if calls.ends:
        return None
    lines = _marked(form, asked, calls.mark) if calls.mark else _begun(form, asked)
    return finished("\n".join([*lines, _SPACE]), "body.tools")


def _marked(form: AnswerFormat, asked: AskedCalls, mark: str) -> list[str]:
    """Text, and a call behind the first mark that begins one."""
    calls = form.calls
    assert calls is not None
    parts = (*calls.before, *calls.call, *calls.after)
    assert parts[0] == mark
    names, rules = _call_rules(form, asked, parts[1:])
    call = f"call: {' | '.join(names)}"
    if mark in form.special:
        return [f"start: TEXT ({_text(mark, form)} call WS)?", f"TEXT: /{_THINKING}/", call, *rules]
    return [
        "start: before call WS | TEXT",
        f"before[suffix={quoted(mark)}]: /{_THINKING}/",
        f"TEXT: /{_THINKING}/ & ~/{_THINKING}{pattern_of(mark)}{_THINKING}/",
        call,
        *rules,
    ]


def _begun(form: AnswerFormat, asked: AskedCalls) -> list[str]:
    """An answer that begins as a call, and is one; or any other text."""
    calls = form.calls
    assert calls is not None
    parts = (*calls.before, *calls.call, *calls.after)
    named = next(i for i, part in enumerate(parts) if part in (NAME, NAME_JSON)) + 1
    named += parts[named - 1] is NAME  # with what ends it
    names, rules = _call_rules(form, asked, parts[named:])
    begins, ways = [], []
    for rule, (_, function) in zip(names, asked.functions(), strict=True):
        head = "".join(_pattern(part, function["name"]) for part in (SPACE, *parts[:named]))
        begins.append(f"({head})")
        terminal = f"BEGUN_{rule.upper()}"
        rules.append(f"{terminal}: /{head}/")
        ways.append(f"{terminal} {rule}")
    prefix = form.special.get(calls.prefix or "")
    start = f"(<[{prefix}]>)? " if prefix is not None else ""
    return [
        f"start: {start}(TEXT | ({' | '.join(ways)}) WS)",
        f"TEXT: /{_THINKING}/ & ~/({'|'.join(begins)}){_THINKING}/",
        *rules,
    ]


def _pattern(part: object, name: str) -> str:
    if part is SPACE:
        return r"[ \n\t]*"
    texts = {NAME: name, NAME_JSON: json.dumps(name, ensure_ascii=False)}
    return pattern_of(texts.get(part, str(part)))


def _call_rules(form: AnswerFormat, asked: AskedCalls, parts: Parts) -> tuple[list[str], list[str]]:
    """A rule of these parts for each function: their names, and the rules behind them."""
    calls = form.calls
    assert calls is not None
    names, rules = [], list[str]()
    for i, function in asked.functions():
        names.append(f"call_{i}")
        where = f"body.tools[{i}].function.parameters"
        rules.append(f"call_{i}: {_parts(parts, form, function['name'], f'args_{i}')}")
        if calls.parameters is None:
            rules.append(f"args_{i}: %json {_schema(function, where)}")
            continue
        of_parameters = ParameterRules(
            calls.parameters, partial(_write, form), form.special, f"args_{i}", where
        )
        rules += of_parameters.add(function.get("parameters") or {})
    return names, rules


def _write(form: AnswerFormat, parts: Parts, name: str) -> str:
    return _parts(parts, form, name)


def _parts(parts: Parts, form: AnswerFormat, name: str = "", arguments: str = "") -> str:
    """Parts of a call as Lark writes them."""
    known = {
        SPACE: "WS",
        NAME: quoted(name),
        NAME_JSON: quoted(json.dumps(name, ensure_ascii=False)),
        ARGUMENTS: arguments,
    }
    found = []
    for part in parts:
        if isinstance(part, OneOf):
            ways = [_parts(way, form, name, arguments) or '""' for way in part.ways]
            found.append(f"({' | '.join(ways)})")
        else:
            found.append(known.get(part) or _text(str(part), form))
    return " ".join(found)


def _text(text: str, form: AnswerFormat) -> str:
    """A text, and the special tokens in it, as Lark writes them."""
    tokens = sorted(form.special, key=len, reverse=True)
    pieces = re.split("|".join(map(re.escape, tokens)), text) if tokens else [text]
    marks = re.findall("|".join(map(re.escape, tokens)), text) if tokens else []
    found = []
    for piece, mark in zip_longest(pieces, marks):
        found += [quoted(piece)] if piece else []
        found += [f"<[{form.special[mark]}]>"] if mark else []
    return " ".join(found)


def _schema(function: Mapping[str, Any], param: str) -> str:
    """The schema of a function's arguments, which are an object."""
    given = {"type": "object", **(function.get("parameters") or {})}
    given.setdefault("x-guidance", {"whitespace_pattern": WHITE_SPACE})
    return schema_text(given, param)


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
    marks = form.reasoning
    if marks.close in form.special:
        thinking = f"thinking: THINKING {_text(marks.close, form)}\nTHINKING: /{_THINKING}/"
    else:
        thinking = f"thinking[suffix={quoted(marks.close)}]: /{_THINKING}/"
    rest = "thinking " + (_text(marks.after, form) if marks.after else "WS")
    first = f"{rest} " if begun is Reasoning.open else ""
    if marks.after or begun is Reasoning.none:
        again = f"({_text(marks.open, form)} {rest}){'*' if marks.after else '?'}"
    else:
        again = ""
    header = f"({_text(marks.header, form)})?" if marks.header else ""
    start = f"start: {first}{again} {header} @answer"
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
