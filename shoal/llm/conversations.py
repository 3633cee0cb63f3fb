"""Conversations as a call gives them, and as the model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts.chat_template import ChatTemplate
from shoal.prompts.prompts import ChatPrompt, parse_messages
from shoal.prompts.python_prompts import CheckedPrompt


def conversations(messages: Any) -> list[Any]:
    """One or several, as a list."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
        raise OptionError("messages must be a conversation, a list of messages, or several.")
    given = list(messages)
    return [given] if given and isinstance(given[0], Mapping) else given


def rendered(
    template: ChatTemplate, where: str, messages: Any, kwargs: dict[str, Any]
) -> CheckedPrompt:
    """The text of a conversation, or what is wrong with it; errors call it `where`."""
    given = [dict(m) if isinstance(m, Mapping) else m for m in messages]
    try:
        return template.text(ChatPrompt(parse_messages(given, where), kwargs), where)
    except InvalidRequestError as error:
        return error
