"""The grammar of arguments that are written one parameter after the other.

Parameters come in the schema's order. A text stands as it is, so what its schema says of it becomes
patterns; every other value is JSON. What cannot be held that way is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from llguidance import regex_to_lark

from shoal.answers.formats import ParameterFormat, Parts
from shoal.answers.parameter_types import resolved, types_of
from shoal.answers.structure import WHITE_SPACE, quoted
from shoal.errors import InvalidRequestError
from shoal.prompts.refusals import wrong_value

_SAID_OF_ALL = {
    *("title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment"),
    *("$defs", "definitions", "readOnly", "writeOnly", "nullable"),
}
"""Keywords that ask for nothing."""
_OF_OBJECT = {"type", "properties", "required", "additionalProperties", "x-guidance"}
_OF_TEXT = {"type", "enum", "const", "pattern", "minLength", "maxLength"}

Write = Callable[[Parts, str], str]
"""Parts of a call, with the name in them, as Lark writes them."""


@dataclass
class ParameterRules:
    """Lark rules for the arguments of one function.

    Attributes:
        form: how parameters are written.
        write: writes fixed parts.
        special: tokens that are no text.
        name: begins the names of all rules; a lower-case word.
        param: the field that errors name.
        rules: found so far.
    """

    form: ParameterFormat
    write: Write
    special: Mapping[str, int]
    name: str
    param: str
    rules: list[str] = field(default_factory=list)

    def add(self, schema: Mapping[str, Any]) -> list[str]:
        """The rules, of which `name` is the one to begin with.

        Raises:
            InvalidRequestError: names what cannot be held.
        """
        self._check(schema, _OF_OBJECT, self.param)
        if types_of(schema, schema) not in ([], ["object"]):
            raise wrong_value(f"{self.param}.type", "must be object")
        required = list(schema.get("required") or [])
        properties = dict(schema.get("properties") or {})
        properties |= {name: {} for name in required if name not in properties}
        for number, (name, each) in enumerate(properties.items()):
            self._parameter(number, name, each, schema)
        self._sequence([name in required for name in properties])
        return self.rules

    def _sequence(self, required: Sequence[bool]) -> None:
        """Parameters in order, with those that are not required or without."""
        between = self.write(self.form.between, "")
        for i in range(1, len(required) + 1):
            self.rules.append(f"{self.name}_more_{i}: {self._rest(i, required, between)}")
        self.rules.append(f"{self.name}: {self._rest(0, required, '')}")

    def _rest(self, first: int, required: Sequence[bool], between: str) -> str:
        """What may follow the parameters before the `first`."""
        ways = []
        for i, must in enumerate(required[first:], first):
            ways.append(f"{between} {self._of(i)} {self.name}_more_{i + 1}")
            if must:
                return " | ".join(ways)
        return " | ".join([*ways, '""'])

    def _of(self, number: int) -> str:
        return f"{self.name}_p{number}"

    def _parameter(self, number: int, name: str, schema: Any, root: Mapping[str, Any]) -> None:
        where = f"{self.param}.properties.{name}"
        if self.form.text_end is None and not (name.isascii() and name.isidentifier()):
            raise wrong_value(where, "is no name that this form of calls can write")
        if re.search(r"[<>\s]", name):
            raise wrong_value(where, "has a name that this form of calls cannot write")
        head = self.write(self.form.before, name)
        value = self._value(self._of(number), schema, root, where)
        self.rules.append(f"{self._of(number)}: {head} {value}")

    def _value(self, rule: str, schema: Any, root: Mapping[str, Any], where: str) -> str:
        """A value with what ends it."""
        types = types_of(schema, root)
        end = quoted(self.form.end) if self.form.end else ""
        if self.form.text_end is None and types == ["boolean"] and "enum" not in schema:
            return f'("True" | "False") {end}'
        if self.form.text_end is not None and (not types or "string" in types):
            return self._text(rule, schema, types, root, where)
        known = schema if isinstance(schema, Mapping) else {}
        beside = {name: root[name] for name in ("$defs", "definitions") if name in root}
        whole = {**known, **beside, "x-guidance": {"whitespace_pattern": WHITE_SPACE}}
        self.rules.append(f"{rule}_json: %json {schema_text(whole, where)}")
        return f"{rule}_json {end}"

    def _text(
        self, rule: str, given: Any, types: Sequence[str], root: Mapping[str, Any], where: str
    ) -> str:
        """A text as it stands; it never holds what ends it."""
        schema = resolved(given, root)
        alternatives = {"anyOf", "oneOf"} & schema.keys()
        parts = [resolved(part, root) for name in alternatives for part in schema[name]]
        said = [schema, *parts] if parts else [schema]
        for each in said:
            self._check(each, _OF_TEXT | ({"anyOf", "oneOf"} if each is schema else set()), where)
        asks = [each.keys() & (_OF_TEXT - {"type"}) for each in said]
        if set(types) - {"string", "null"} and any(keys - {"enum", "const"} for keys in asks):
            raise wrong_value(where, "is text or something else, and says what of the text: "
                              "such a value is read in two ways")  # fmt: skip
        ways = [way for each in (parts or [schema]) for way in self._ways(each, types, where)]
        terminal = rule.upper()
        patterns = dict.fromkeys(ways)
        found = [f"{terminal}_{i}" for i in range(len(patterns))]
        for name, pattern in zip(found, patterns, strict=True):
            self.rules.append(f"{name}: {self._ended(pattern)}")
        mark = self.special.get(str(self.form.text_end))
        end = "" if mark is None else f" <[{mark}]>"
        return f"({' | '.join(found)}){end}"

    def _ways(
        self, schema: Mapping[str, Any], types: Sequence[str], where: str
    ) -> list[tuple[str, ...]]:
        """Patterns that a value has all of, for each way to write it."""
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
            if any(str(self.form.text_end) in text for text in texts):
                raise wrong_value(where, f"has a value with {self.form.text_end} in it")
            return [(pattern_of(text),) for text in texts]
        if schema.get("type") == "null":
            return [("null",)]
        patterns = []
        if "minLength" in schema or "maxLength" in schema:
            bounds = schema.get("minLength", 0), schema.get("maxLength", "")
            patterns.append(f"(?s:.{{{bounds[0]},{bounds[1]}}})")
        if "pattern" in schema:
            patterns.append(_searched(str(schema["pattern"]), where))
        nothing = [("null",)] if "null" in types and patterns else []
        return [tuple(patterns) or ("(?s:.*)",), *nothing]

    def _ended(self, patterns: Sequence[str]) -> str:
        """A terminal of a text and what ends it, in which that comes once."""
        end = pattern_of(self.form.end)
        mark = str(self.form.text_end)
        if mark in self.special:
            end = pattern_of(self.form.end.removesuffix(mark))
            return " & ".join(f"/({each}){end}/" for each in patterns)
        once = f"~/(?s:.*{pattern_of(mark)}.+)/"
        return " & ".join([*(f"/({each}){end}/" for each in patterns), once])

    def _check(self, schema: Mapping[str, Any], known: set[str], where: str) -> None:
        others = [name for name in schema if name not in known and name not in _SAID_OF_ALL]
        if others:
            raise InvalidRequestError(
                f"{where}.{others[0]} is not supported where calls are enforced in this model's "
                'form; leave it out, or set tool_choice to "auto".',
                code="unsupported_parameter",
                param=f"{where}.{others[0]}",
            )


def schema_text(schema: Mapping[str, Any], where: str) -> str:
    """The text of a JSON schema.

    Raises:
        InvalidRequestError: it is no JSON.
    """
    try:
        return orjson.dumps(schema).decode()
    except TypeError as error:
        raise wrong_value(where, f"is nested too deeply, or no JSON ({error})") from None


def pattern_of(text: str) -> str:
    """A text as a pattern of Lark's."""
    return re.sub(r"([\\.+*?()|\[\]{}^$/])", r"\\\1", text).replace("\n", "\\n")


def _searched(pattern: str, where: str) -> str:
    """The pattern of a text in which a pattern is found, as JSON Schema means it."""
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    if (begins or ends) and "|" in pattern:
        raise wrong_value(f"{where}.pattern", "has both | and anchors; write its ways as anyOf")
    body = pattern[begins : len(pattern) - ends]
    try:
        body = regex_to_lark(body, "") if body else ""
    except Exception as error:  # the converter raises whatever it comes across
        raise wrong_value(f"{where}.pattern", f"is not supported ({error})") from None
    return f"{'' if begins else '(?s:.*)'}({body}){'' if ends else '(?s:.*)'}"
