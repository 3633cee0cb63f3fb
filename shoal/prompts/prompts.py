"""The prompt of a request as the Batch API writes it: messages, strings or token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shoal.prompts.message_fields import MESSAGE_FIELDS, PART_FIELDS, REASONING
from shoal.prompts.refusals import check_fields, empty_prompt, missing, wrong_value
from shoal.prompts.tool_fields import parse_calls

Message = dict[str, Any]
_STRINGS = ("role", "name", "tool_call_id", *REASONING)
_EXACT_FLOATS = 2**53
"""Below this every whole number has a float of its own."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the model's chat template.

    Attributes:
        messages: {"role", "content", perhaps "name", "tool_call_id", "reasoning_content" or
            "reasoning"}; content is a string or a list of {"type": "text", "text"}, all others are
            strings. An assistant's may have "tool_calls"; see `parse_calls`.
        template_kwargs: what the request passes to the template, checked there.
        arguments: what else the template is given: transformers' own arguments, or the variables
            that fields of the request stand for.
        calls_tools: whether the answer may call its tools, which must arrive then.
        names: what errors call each message's content, where not by its number.
    """

    messages: list[Message]
    template_kwargs: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    calls_tools: bool = True
    names: tuple[str, ...] = ()


Prompt = ChatPrompt | str | list[int]


def whole_number(value: Any) -> Any:
    """A float that is a whole number as an int: tables' columns hold 8.0 where 8 is meant."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        return int(value)
    return value


def parse_messages(value: object, where: str = "body.messages") -> list[Message]:
    """A conversation, checked. An assistant's null content is empty.

    Raises:
        InvalidRequestError: names the field at fault, for example `body.messages[1].content`.
    """
    if value is None:
        raise missing(where)
    if not isinstance(value, list) or not value:
        raise wrong_value(where, "must be an array of at least one message")
    return [_message(message, f"{where}[{i}]") for i, message in enumerate(value)]


def _message(value: object, where: str) -> Message:
    given = _object(value, where, "must be an object")
    check_fields(given, MESSAGE_FIELDS, f"{where}.")
    message = {name: given[name] for name in _STRINGS if given.get(name)}
    if "role" not in message:
        raise wrong_value(f"{where}.role", "must be a string that is not empty")
    message["content"] = _content(given.get("content"), message["role"], f"{where}.content")
    if given.get("tool_calls"):
        if message["role"] != "assistant":
            raise wrong_value(f"{where}.tool_calls", "is for messages of the role assistant")
        message["tool_calls"] = parse_calls(given["tool_calls"], f"{where}.tool_calls")
    return message


def _object(value: object, where: str, why: str) -> dict[str, Any]:
    """An object without its nulls."""
    if not isinstance(value, dict):
        raise wrong_value(where, why)
    return {name: field for name, field in value.items() if field is not None}


def _content(value: object, role: str, where: str) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return value
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list) and value:
        return [_part(part, f"{where}[{i}]") for i, part in enumerate(value)]
    raise wrong_value(where, "must be a string or an array of text parts")


def _part(value: object, where: str) -> dict[str, str]:
    given = _object(value, where, 'must be an object {"type": "text", "text": ...}')
    check_fields({"type": given.get("type"), **given}, PART_FIELDS, f"{where}.")
    if "text" not in given:
        raise wrong_value(f"{where}.text", "must be a string")
    return {"type": "text", "text": given["text"]}


def parse_prompts(
    value: object, vocab_size: int, where: str = "body.prompt"
) -> tuple[str | list[int], ...]:
    """The prompts in a field: a string, strings, token ids, or lists of token ids.

    Raises:
        InvalidRequestError: another type, an empty prompt, or an id outside the vocabulary.
    """
    if value is None:
        raise missing(where)
    if isinstance(value, str):
        return (_text(value, where),)
    if isinstance(value, list) and value:
        first = value[0]
        if isinstance(first, str):
            return tuple(_text(text, f"{where}[{i}]") for i, text in enumerate(value))
        if isinstance(first, list):
            return tuple(_ids(ids, vocab_size, f"{where}[{i}]") for i, ids in enumerate(value))
        return (_ids(value, vocab_size, where),)
    if isinstance(value, list):
        raise empty_prompt(where)
    raise wrong_value(where, "must be a string, an array of strings, or token ids")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong_value(where, "must be a string, as the prompts before it are")
    if not value:
        raise empty_prompt(where)
    return value


def _ids(value: object, vocab_size: int, where: str) -> list[int]:
    if not isinstance(value, list):
        raise wrong_value(where, "must be an array of token ids, as the prompts before it are")
    if not value:
        raise empty_prompt(where)
    if float in set(map(type, value)):
        value = [whole_number(token) for token in value]
    for i, token in enumerate(value):
        if type(token) is not int or not 0 <= token < vocab_size:
            raise wrong_value(
                f"{where}[{i}]",
                f"must be a token id, a whole number from 0 to {vocab_size - 1}",
            )
    return value
