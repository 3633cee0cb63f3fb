"""Tools as requests give them: their list, which of them to call, and calls of earlier answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shoal.fates import Fate, Honoured, NoEffect, Refused
from shoal.prompts.refusals import check_fields, kind_of, missing, wrong_value

_FUNCTIONS = Refused("Only functions are called.", ("function",))
_GIVEN = "Given to the template."

TOOL_FIELDS: dict[str, Fate] = {
    "type": _FUNCTIONS,
    "function": Honoured("What may be called.", kind=dict),
}
FUNCTION_FIELDS: dict[str, Fate] = {
    "name": Honoured("Calls say it.", kind=str),
    "description": Honoured(_GIVEN, kind=str),
    "parameters": Honoured("The JSON schema of arguments.", kind=dict),
    "strict": Honoured("Arguments of enforced calls always keep the schema.", kind=bool),
}
CALL_FIELDS: dict[str, Fate] = {
    "id": Honoured(_GIVEN, kind=str),
    "type": _FUNCTIONS,
    "function": Honoured("What was called.", kind=dict),
    "index": NoEffect("Clients that stream copy it from answers.", kind=int),
}
CALLED_FIELDS: dict[str, Fate] = {
    "name": Honoured(_GIVEN, kind=str),
    "arguments": Honoured("JSON of an object, or the object."),
}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What an answer does with the tools.

    Attributes:
        calls: whether it may call one.
        must: whether it is a call, and nothing else.
        name: of the one function that it calls; None: any.
    """

    calls: bool = True
    must: bool = False
    name: str | None = None


def parse_tools(value: object, where: str = "body.tools") -> list[dict[str, Any]]:
    """The tools of a request, checked and as they were given; none for null.

    Raises:
        InvalidRequestError: names the field at fault, for example `body.tools[0].function.name`.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_value(where, f"must be an array of tools, not {kind_of(value)}")
    names: set[str] = set()
    for i, tool in enumerate(value):
        name = _tool_name(tool, f"{where}[{i}]")
        if name in names:
            raise wrong_value(f"{where}[{i}].function.name", "is another tool's name, too")
        names.add(name)
    return value


def _tool_name(value: object, where: str) -> str:
    given = _object(value, where)
    check_fields({"type": given.get("type", "function"), **given}, TOOL_FIELDS, f"{where}.")
    if "function" not in given:
        raise missing(f"{where}.function")
    function = _object(given["function"], f"{where}.function")
    check_fields(function, FUNCTION_FIELDS, f"{where}.function.")
    return _name(function, f"{where}.function")


def parse_tool_choice(
    value: object, tools: list[dict[str, Any]], where: str = "body.tool_choice"
) -> ToolChoice:
    """Which tools an answer calls; null is "auto".

    Raises:
        InvalidRequestError: it is no choice, or of a tool that there is not.
    """
    if value == "none":
        return ToolChoice(calls=False)
    if value is None or value == "auto":
        return ToolChoice(calls=bool(tools))
    if not tools:
        raise wrong_value(where, "asks for a call, and there are no tools; give tools")
    if value == "required":
        return ToolChoice(must=True)
    if not isinstance(value, dict):
        forms = '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}'
        raise wrong_value(where, f"must be {forms}")
    given = _object(value, where)
    check_fields({"type": given.get("type"), **given}, TOOL_FIELDS, f"{where}.")
    name = _name(_object(given.get("function", {}), f"{where}.function"), f"{where}.function")
    if all(tool["function"]["name"] != name for tool in tools):
        raise wrong_value(f"{where}.function.name", f"{name[:100]!r} is none of the tools")
    return ToolChoice(must=True, name=name)


def parse_calls(value: object, where: str) -> list[dict[str, Any]]:
    """The calls of an earlier answer, with arguments as objects, which templates read.

    Raises:
        InvalidRequestError: names the field at fault.
    """
    if not isinstance(value, list):
        raise wrong_value(where, f"must be an array of calls, not {kind_of(value)}")
    return [_call(call, f"{where}[{i}]") for i, call in enumerate(value)]


def _call(value: object, where: str) -> dict[str, Any]:
    given = _object(value, where)
    check_fields({"type": given.get("type", "function"), **given}, CALL_FIELDS, f"{where}.")
    if "function" not in given:
        raise missing(f"{where}.function")
    where = f"{where}.function"
    function = _object(given["function"], where)
    check_fields(function, CALLED_FIELDS, f"{where}.")
    name, arguments = _name(function, where), function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError as error:
            raise wrong_value(f"{where}.arguments", f"is not JSON: {error.msg}") from None
    if not isinstance(arguments, dict):
        raise wrong_value(
            f"{where}.arguments", f"must be the JSON of an object, not {kind_of(arguments)}"
        )
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": given["id"], **call} if "id" in given else call


def _name(function: Mapping[str, Any], where: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise wrong_value(f"{where}.name", "must be a string that is not empty")
    return name


def _object(value: object, where: str) -> dict[str, Any]:
    """An object without its nulls."""
    if not isinstance(value, dict):
        raise wrong_value(where, f"must be an object, not {kind_of(value)}")
    return {name: field for name, field in value.items() if field is not None}
