"""From an answer's tokens to a message: reasoning, calls of tools and content.

Answers are read by transformers, with the response templates of `shoal.answers.answer_format`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_parsing import parse_response

from shoal.answers.answer_format import ANCHOR, REASONING_FIELDS, AnswerFormat, Reasoning
from shoal.answers.detokenize import Context, Detokenizer
from shoal.answers.parameter_types import tools_with_types
from shoal.answers.stops import find_stop
from shoal.types import Choice, Int32Array, RequestParams

_TAIL_TOKENS = 32
"""Of a prompt, looked at first for where the answer begins."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` is the JSON of an object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer in its parts.

    Attributes:
        content: None where there are calls and nothing else.
        reasoning: None where there is none.
        reasoning_tokens: how many tokens it took, its marks among them.
    """

    content: str | None
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning_tokens: int = 0


class AnswerReader:
    """Reads the answers of one model."""

    def __init__(self, detokenizer: Detokenizer, form: AnswerFormat) -> None:
        self._detokenizer, self.form = detokenizer, form

    def read(self, choice: Choice, prompt: Int32Array, params: RequestParams) -> ChatAnswer:
        """The parts of a chat's answer.

        What is no reasoning and no call stays content, as the model wrote it.

        Args:
            prompt: int32, the prompt's tokens.
            params: of the request.
        """
        looks_for_calls = params.tools is not None and self.form.knows_calls
        if not (looks_for_calls or self.form.shows_reasoning):
            return ChatAnswer(choice.text)
        text = self._marked_text(choice, params)
        prefix = self._prefix(prompt, text)
        found = self._parsed(text, prefix, params.tools) if looks_for_calls else None
        if found is None:
            found = self._parsed(text, prefix, None)
        if found is None:
            return ChatAnswer(choice.text)
        reasoning, calls = found.reasoning, found.calls
        if not params.parallel_tool_calls:
            calls = calls[:1]
        if not reasoning and not calls and found.content == text:
            return ChatAnswer(choice.text)
        content = self._without_marks(found.content, params)
        content = content.strip() if calls else content.lstrip()
        tokens = self._reasoning_tokens(choice.token_ids, prefix) if reasoning else 0
        return ChatAnswer(content or (None if calls else ""), reasoning or None, calls, tokens)

    def _parsed(self, text: str, prefix: str, tools: str | None) -> _Parsed | None:
        """The parts of a text; None where it does not fit the template, or a call is none."""
        known: list[Any] = [] if tools is None else [*tools_with_types(tools)]
        try:
            template = self.form.template(calls=tools is not None)
            message = parse_response(text, template, prefix=prefix, tools=known)
            names = {tool["function"]["name"] for tool in known}
            found = message.get("tool_calls") or ()
            if isinstance(found, str) and self.form.calls and self.form.calls.read:
                found = self.form.calls.read(found)
            calls = tuple(_call(call, names) for call in found)
        except Exception as error:  # a checkpoint's template may raise anything
            _log.debug("an answer is not what its response template reads: %s", error)
            return None
        reasoning = next((message[f] for f in REASONING_FIELDS if message.get(f)), "")
        return _Parsed(str(message.get("content") or ""), str(reasoning), calls)

    def _prefix(self, prompt: Int32Array, text: str) -> str:
        """What the template is told of the prompt."""
        if self.form.own is not None:
            return self._own_prefix(prompt)
        marks = self.form.reasoning
        if marks is None:
            return ANCHOR
        begun = self.form.reasoning_in(self._text(prompt[-_TAIL_TOKENS:]))
        before, closes, _ = text.partition(marks.close)
        if begun is Reasoning.none and closes and not marks.header and marks.open not in before:
            begun = Reasoning.open  # the prompt may begin it in other words than these
        return ANCHOR + marks.open if begun is Reasoning.open else ANCHOR

    def _own_prefix(self, prompt: Int32Array) -> str:
        """The end of the prompt, from where its last answer begins if that is told."""
        from transformers.utils.chat_parsing.response_templates import load_response_template

        assert self.form.own is not None
        anchor = load_response_template(dict(self.form.own)).start_anchor_re
        size = _TAIL_TOKENS
        while True:
            text = self._text(prompt[-size:])
            if size >= len(prompt) or anchor.search(text):
                return text
            size *= 4

    def _text(self, tokens: Int32Array) -> str:
        return self._detokenizer.text(tokens.tolist(), skip_special_tokens=False)

    def _marked_text(self, choice: Choice, params: RequestParams) -> str:
        """The answer's text with the special tokens that reading needs to see."""
        marks = self.form.marks
        if not params.skip_special_tokens or marks.keys().isdisjoint(choice.token_ids):
            return choice.text
        text, segment, context = "", list[int](), Context()
        for token in choice.token_ids:
            if token in marks:
                text += self._detokenizer.text(segment, True, context) + marks[token]
                segment, context = [], Context((token,), "")
            else:
                segment.append(token)
        text += self._detokenizer.text(segment, True, context)
        if isinstance(choice.stop_reason, str) and (stop := find_stop(text, params.stop)):
            text = text[: stop[1] if params.include_stop_str_in_output else stop[0]]
        return text

    def _without_marks(self, content: str, params: RequestParams) -> str:
        if params.skip_special_tokens:
            for mark in self.form.marks.values():
                content = content.replace(mark, "")
        return content

    def _reasoning_tokens(self, ids: Sequence[int], prefix: str) -> int:
        """Tokens up to the mark that ends the reasoning; all where none does."""
        marks = self.form.reasoning
        if marks is None:
            return 0
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            text = self._detokenizer.text(ids[: middle + 1], skip_special_tokens=False)
            if marks.close in text:
                high = middle
            else:
                low = middle + 1
        return min(low + 1, len(ids))


@dataclass(frozen=True, slots=True)
class _Parsed:
    content: str
    reasoning: str
    calls: tuple[ToolCall, ...]


def _call(value: Mapping[str, Any], names: set[str]) -> ToolCall:
    """A call that transformers read.

    Raises:
        ValueError: it is of no tool there is, or its arguments are no object that JSON can write.
    """
    function = value["function"]
    name = function["name"]
    if name not in names:
        raise ValueError(f"{name!r} is no tool")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name!r} are no object")
    return ToolCall(name, _json(arguments))


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can write
        return json.dumps(value, allow_nan=False)
    return text
