"""A /v1/responses body as the chat that it asks for: text in, one answer out, nothing kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.answers.structure import ANY_OBJECT, Structure, of_schema
from shoal.fates import Fate
from shoal.prompts.prompts import Message
from shoal.prompts.refusals import check_fields, kind_of, missing, unsupported, wrong_value
from shoal.requests.response_fields import (
    FORMAT_FIELDS,
    ITEM_FIELDS,
    ITEM_PART_FIELDS,
    LOGPROBS,
    REASONING_FIELDS,
    TEXT_FIELDS,
)

_INPUT = "body.input"


def response_messages(body: Mapping[str, Any]) -> tuple[list[Message], tuple[str, ...]]:
    """The conversation in a checked body, and what errors call each message's content.

    `instructions` are a system message before the others.

    Raises:
        InvalidRequestError: names the field at fault, for example `body.input[1].content[0].type`.
    """
    said = body.get("input")
    if said is None:
        raise missing(_INPUT)
    if isinstance(said, str):
        if not said:
            raise wrong_value(_INPUT, "is empty")
        messages, names = [{"role": "user", "content": said}], [_INPUT]
    elif isinstance(said, list) and said:
        messages = [_message(item, f"{_INPUT}[{i}]") for i, item in enumerate(said)]
        names = [f"{_INPUT}[{i}].content" for i in range(len(said))]
    else:
        raise wrong_value(_INPUT, "must be a string, or an array of at least one item")
    if instructions := body.get("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
        names.insert(0, "body.instructions")
    return messages, tuple(names)


def chat_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a checked body asks for beside its messages, under the names of a chat.

    Raises:
        InvalidRequestError: a field is wrong, by its own name.
    """
    fields = dict(body)
    if (limit := fields.pop("max_output_tokens", None)) is not None:
        if type(limit) is not int or limit < 1:
            raise wrong_value("body.max_output_tokens", "must be a whole number of at least 1")
        fields["max_completion_tokens"] = limit
    fields["logprobs"] = _asks_for_logprobs(fields.pop("include", None))
    if fields.get("top_logprobs") and not fields["logprobs"]:
        raise wrong_value("body.top_logprobs", f'needs include to list "{LOGPROBS}"')
    text = _checked(body.get("text", {}), TEXT_FIELDS, "body.text")
    reasoning = _checked(body.get("reasoning", {}), REASONING_FIELDS, "body.reasoning")
    if "verbosity" in text:
        fields["verbosity"] = text["verbosity"]
    if "effort" in reasoning:
        fields["reasoning_effort"] = reasoning["effort"]
    return fields


def response_format(body: Mapping[str, Any]) -> Structure | None:
    """The structure that `text.format` asks for; None: none.

    Raises:
        InvalidRequestError: it is wrong.
    """
    where = "body.text.format"
    given = (body.get("text") or {}).get("format")
    if given is None:
        return None
    form = _checked(given, FORMAT_FIELDS, where)
    kind = form.get("type")
    if kind == "json_schema":
        if "schema" not in form:
            raise missing(f"{where}.schema")
        return of_schema(form["schema"], f"{where}.schema")
    if kind not in ("text", "json_object"):
        raise wrong_value(f"{where}.type", 'must be "text", "json_object" or "json_schema"')
    return of_schema(ANY_OBJECT, where) if kind == "json_object" else None


def _asks_for_logprobs(include: object) -> bool:
    if include is None:
        return False
    if not isinstance(include, list):
        raise wrong_value("body.include", f"must be an array, not {kind_of(include)}")
    for i, each in enumerate(include):
        if each != LOGPROBS:
            raise unsupported(f"body.include[{i}]", f'only "{LOGPROBS}" may be listed')
    return bool(include)


def _message(item: object, where: str) -> Message:
    given = _checked(item, ITEM_FIELDS, where)
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or not role:
        raise wrong_value(f"{where}.role", "must be a string that is not empty")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise wrong_value(f"{where}.content", "must be a string or an array of text parts")
    return {
        "role": role,
        "content": [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)],
    }


def _part(part: object, where: str) -> dict[str, str]:
    given = _checked(part, ITEM_PART_FIELDS, where)
    check_fields({"type": given.get("type")}, {"type": ITEM_PART_FIELDS["type"]}, f"{where}.")
    if "text" not in given:
        raise wrong_value(f"{where}.text", "must be a string")
    return {"type": "text", "text": given["text"]}


def _checked(value: object, fates: Mapping[str, Fate], where: str) -> dict[str, Any]:
    """An object without its nulls, its fields checked."""
    if not isinstance(value, dict):
        raise wrong_value(where, f"must be an object, not {kind_of(value)}")
    given = {name: field for name, field in value.items() if field is not None}
    check_fields(given, fates, f"{where}.")
    return given
