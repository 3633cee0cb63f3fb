"""What a chat asks for about tools: `tools`, `tool_choice` and `parallel_tool_calls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.call_grammar import calls_structure, either
from shoal.answers.structure import Structure
from shoal.prompts.refusals import unsupported, wrong_value
from shoal.prompts.tool_fields import parse_tool_choice, parse_tools


@dataclass(frozen=True)
class AskedTools:
    """The tools of a chat, checked.

    Attributes:
        given: what the template is given.
        callable: JSON of those that the answer may call; None: none.
        calls: makes the structure of an answer that calls them and says nothing else; None where
            none is called, or the form of calls is not known.
        must: whether the answer must be of that structure.
    """

    given: list[dict[str, Any]] = field(default_factory=list)
    callable: str | None = None
    calls: Callable[[], Structure] | None = None
    must: bool = False

    @property
    def idle(self) -> bool:
        """Whether there are tools, and none may be called."""
        return bool(self.given) and self.callable is None

    def with_content(self, content: Structure | None) -> Structure | None:
        """What an answer looks like whose content, where it has some, is of a structure.

        Raises:
            InvalidRequestError: parameters of a function are no schema.
        """
        if self.calls is None or (content is None and not self.must):
            return content
        calls = self.calls()
        return calls if content is None or self.must else either(calls, content)


def asked_tools(body: Mapping[str, Any], form: AnswerFormat) -> AskedTools:
    """The tools that a chat's body asks for.

    Args:
        body: its fields that are not null.
        form: of the model's answers.

    Raises:
        InvalidRequestError: names the field at fault, or how the model calls tools is not known.
    """
    tools = parse_tools(body.get("tools"))
    choice = parse_tool_choice(body.get("tool_choice"), tools)
    if not tools or not choice.calls:
        return AskedTools(tools)
    if choice.must and form.calls is None:
        raise unsupported("body.tool_choice", f'only "auto" and "none" are: {_unknown(form)}')
    if not form.knows_calls and not form.off:
        raise unsupported("body.tools", f'{_unknown(form)}, or set tool_choice to "none"')
    calls = None
    if form.calls is not None:
        several = body.get("parallel_tool_calls", True)
        calls = partial(calls_structure, form, tools, choice.name, several)
    try:
        callable = orjson.dumps(tools).decode()
    except TypeError:
        raise wrong_value("body.tools", "is nested too deeply") from None
    return AskedTools(tools, callable, calls, choice.must)


def _unknown(form: AnswerFormat) -> str:
    if not form.reads_tools:
        return "the model's chat template reads no tools; describe them in a message"
    return "how the model calls tools is not known; name the form with --tool-call-parser"
