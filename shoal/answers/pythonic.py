"""The form of Llama 4: a Python list of calls with keyword arguments.

    [get_weather(city="Oslo", days=2), now(zone=None)]

transformers has no parser for it, and Python has: only literals are read, nothing is run.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from shoal.answers.formats import ARGUMENTS, NAME, SPACE, CallFormat, ParameterFormat

_NAMES = {"true": True, "false": False, "null": None}
"""JSON's, which models write, too."""


def python_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a list of them.

    Raises:
        ValueError: it is no such list.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"this is no Python ({error})") from None
    if not isinstance(node, ast.List) or not node.elts:
        raise ValueError("this is no list of calls")
    return [{"function": _call(each, text.strip())} for each in node.elts]


def _call(node: ast.expr, text: str) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise ValueError("this is no call with keyword arguments")
    arguments = {str(each.arg): _value(each.value, text) for each in node.keywords}
    return {"name": ast.unparse(node.func), "arguments": arguments}


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each, text) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key, text) if key is not None else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys are texts")
        values = (_value(each, text) for each in node.values)
        return dict(zip(keys, values, strict=True))
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _text(node, text)
    return ast.literal_eval(node)


def _text(node: ast.Constant, text: str) -> Any:
    """A text as JSON reads it, where it is JSON: the two have other escapes."""
    source = ast.get_source_segment(text, node) or ""
    try:
        return json.loads(source)
    except ValueError:
        return node.value


LLAMA4 = CallFormat(
    field={
        "open_pattern": r"\A\s*(?:<\|python_start\|>)?(?=\s*\[\s*[A-Za-z_][\w.]*\s*\()",
        "close": "<|python_end|>",
        "content": "text",
    },
    before=("[", SPACE),
    call=(NAME, "(", ARGUMENTS, ")"),
    between=(",", SPACE),
    after=(SPACE, "]"),
    prefix="<|python_start|>",
    parameters=ParameterFormat(before=(NAME, "="), between=(",", SPACE)),
    read=python_calls,
)
