"""Proof that tools, and the calls in earlier answers, arrive in the prompt of a chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shoal.errors import InvalidRequestError
from shoal.prompts.prompts import Message

Tools = Sequence[Mapping[str, Any]]
"""JSON schemas, as OpenAI's API and transformers take them."""

_TEXTS = ("name", "description")
_MARK = "qzshoaltool{}qz"


def first_vanished(tools: Tools, render: Callable[[Tools], str], where: str) -> str | None:
    """The first name or description that the prompt does not depend on; None if all matter.

    Args:
        render: a conversation with these tools.
        where: what errors call the tools.
    """
    marks: list[str] = []
    marked = _marked(tools, marks)
    try:
        together = render(marked)
    except InvalidRequestError:  # the template may look at names
        together = ""
    if all(mark in together for mark in marks):
        return None
    rendered = render(tools)
    for param, others in _altered(tools, where):
        if render(others) == rendered:
            return param
    return None


def _marked(value: Any, marks: list[str]) -> Any:
    """The value with a mark of its own, added to `marks`, in the place of each text."""
    if isinstance(value, Mapping):
        return {
            key: _new_mark(marks) if _is_text(key, inner) else _marked(inner, marks)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_marked(inner, marks) for inner in value]
    return value


def _new_mark(marks: list[str]) -> str:
    marks.append(_MARK.format(len(marks)))
    return marks[-1]


def _is_text(key: object, value: object) -> bool:
    return key in _TEXTS and isinstance(value, str) and bool(value.strip())


def _altered(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The value with one of its texts replaced by another as long, for each of them in turn."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            path = f"{where}.{key}"
            if _is_text(key, inner):
                yield path, {**value, key: _other(inner)}
            else:
                yield from ((at, {**value, key: other}) for at, other in _altered(inner, path))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            for at, other in _altered(inner, f"{where}[{i}]"):
                yield at, [*value[:i], other, *value[i + 1 :]]


def _other(text: str) -> str:
    return ("x" if "x" not in text else "y") * len(text)


def first_vanished_call(
    messages: Sequence[Message], render: Callable[[list[Message]], str], where: str
) -> str | None:
    """The first call of an earlier answer that the prompt does not depend on; None if all matter.

    Args:
        render: a conversation.
        where: what errors call the messages.
    """
    if not any(message.get("tool_calls") for message in messages):
        return None
    marks: list[str] = []

    def mark(call: dict[str, Any]) -> dict[str, Any]:
        name, key = _new_mark(marks), _new_mark(marks)
        return call | {"function": {"name": name, "arguments": {key: _new_mark(marks)}}}

    try:
        together = render([_with_calls(message, mark) for message in messages])
    except InvalidRequestError:
        together = ""
    if all(mark in together for mark in marks):
        return None
    rendered = render(list(messages))
    for i, message in enumerate(messages):
        for j, call in enumerate(message.get("tool_calls", ())):
            for changed in _altered_calls(call):
                calls = [*message["tool_calls"][:j], changed, *message["tool_calls"][j + 1 :]]
                others = [*messages[:i], message | {"tool_calls": calls}, *messages[i + 1 :]]
                if render(others) == rendered:
                    return f"{where}[{i}].tool_calls[{j}]"
    return None


def _with_calls(message: Message, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Message:
    calls = message.get("tool_calls")
    return message | {"tool_calls": [change(call) for call in calls]} if calls else message


def _altered_calls(call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The call with another name, then with other arguments."""
    function = call["function"]
    yield call | {"function": function | {"name": _other(function["name"])}}
    yield call | {"function": function | {"arguments": {"qz": "qz", **function["arguments"]}}}
