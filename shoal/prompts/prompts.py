"""The prompt of a request as the Batch API writes it: messages, strings or token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal.prompts.refusals import empty_prompt, missing, unsupported, wrong_value

Message = dict[str, Any]
_TEXT_ONLY = "only text messages are"
_REASONING = ("reasoning_content", "reasoning")
"""An earlier answer's reasoning; transformers gives it to templates by the names they know."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the model's chat template.

    Attributes:
        messages: {"role", "content", perhaps "name", "reasoning_content" or "reasoning"}; content
            is a string or a list of {"type": "text", "text"}, all others are strings.
        template_kwargs: passed to the template as they are.
    """

    messages: list[Message]
    template_kwargs: dict[str, Any]


Prompt = ChatPrompt | str | list[int]


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
    if not isinstance(value, dict):
        raise wrong_value(where, "must be an object")
    message: Message = {}
    for name, field in value.items():
        if name in ("role", "name", *_REASONING):
            if field is not None and not isinstance(field, str):
                raise wrong_value(f"{where}.{name}", "must be a string")
            if field:
                message[name] = field
        elif name != "content" and not _says_nothing(name, field):
            raise unsupported(f"{where}.{name}", _TEXT_ONLY)
    if "role" not in message:
        raise wrong_value(f"{where}.role", "must be a string that is not empty")
    message["content"] = _content(value.get("content"), message["role"], f"{where}.content")
    return message


def _says_nothing(name: str, field: object) -> bool:
    """Whether a field that clients copy from answers may be left out."""
    return field is None or name == "id" or (name in ("annotations", "tool_calls") and field == [])


def _content(value: object, role: str, where: str) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return value
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list) and value:
        return [_part(part, f"{where}[{i}]") for i, part in enumerate(value)]
    raise wrong_value(where, "must be a string or an array of text parts")


def _part(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong_value(where, 'must be an object {"type": "text", "text": ...}')
    if value.get("type") != "text":
        raise unsupported(f"{where}.type", _TEXT_ONLY)
    for name, field in value.items():
        if name not in ("type", "text", "cache_control") and field is not None:
            raise unsupported(f"{where}.{name}", _TEXT_ONLY)
    text = value.get("text")
    if not isinstance(text, str):
        raise wrong_value(f"{where}.text", "must be a string")
    return {"type": "text", "text": text}


def parse_prompts(value: object, vocab_size: int) -> tuple[str | list[int], ...]:
    """The prompts in `body.prompt`: a string, strings, token ids, or lists of token ids.

    Raises:
        InvalidRequestError: another type, an empty prompt, or an id outside the vocabulary.
    """
    where = "body.prompt"
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
    for i, token in enumerate(value):
        if type(token) is not int or not 0 <= token < vocab_size:
            raise wrong_value(
                f"{where}[{i}]",
                f"must be a token id, a whole number from 0 to {vocab_size - 1}",
            )
    return value
