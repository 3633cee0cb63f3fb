"""What a model's answers consist of: its reasoning, calls of tools, and content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from shoal.answers.find_formats import (
    REASONING_FORMATS,
    find_call_format,
    find_reasoning_format,
    named_call_format,
)
from shoal.answers.formats import CallFormat, ReasoningFormat, between_marks
from shoal.config import AUTO

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""What response templates call it."""
ANCHOR = "qzshoalanswerqz"
"""Where an answer begins in a prompt that we give to a response template of ours."""


class Reasoning(Enum):
    """What of a model's reasoning stands in a prompt."""

    open = "it has begun, and the answer goes on with it"
    closed = "it is over"
    none = "an answer may begin with it"


@dataclass(frozen=True)
class AnswerFormat:
    """The form of a model's answers.

    Attributes:
        calls: how it calls tools; None: not known, or not wanted.
        reasoning: the marks around its reasoning; None: it has none, none known or none wanted.
        own: the checkpoint's own response template, which is used for reading then.
        special: its special tokens, by their text.
        reads_tools: whether its chat template says anything about tools.
        off: whether calls are not to be looked for.
    """

    calls: CallFormat | None = None
    reasoning: ReasoningFormat | None = None
    own: Mapping[str, Any] | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    reads_tools: bool = False
    off: bool = False

    @classmethod
    def find(
        cls, tokenizer: PreTrainedTokenizerBase | None, calls: str = AUTO, reasoning: str = AUTO
    ) -> AnswerFormat:
        """The form of a model's answers, from its chat template and tokenizer.

        Args:
            calls, reasoning: names of forms, "none", or "auto". A checkpoint's own response
                template is used where both are "auto".
        """
        if tokenizer is None:
            return cls()
        template = _template_text(tokenizer)
        added = tokenizer.added_tokens_decoder
        texts = frozenset(str(token.content) for token in added.values())
        own = getattr(tokenizer, "response_template", None)
        own = own if calls == reasoning == AUTO else None
        found_calls = find_call_format(template)
        found_reasoning = find_reasoning_format(template, texts)
        if own is not None:
            found_reasoning = _marks_of(own)
        return cls(
            calls=found_calls if calls == AUTO else named_call_format(calls, template),
            reasoning=found_reasoning if reasoning == AUTO else REASONING_FORMATS.get(reasoning),
            own=own,
            special={str(token.content): i for i, token in added.items() if token.special},
            reads_tools="tools" in template,
            off=calls == "none",
        )

    @property
    def knows_calls(self) -> bool:
        """Whether calls are told from content."""
        return self.calls is not None or "tool_calls" in (self.own or {}).get("fields", {})

    @property
    def shows_reasoning(self) -> bool:
        """Whether reasoning is told from content."""
        fields = (self.own or {}).get("fields", {})
        return self.reasoning is not None or any(name in fields for name in REASONING_FIELDS)

    def template(self, calls: bool) -> dict[str, Any]:
        """The response template that reads answers.

        Args:
            calls: whether calls are looked for.
        """
        if self.own is not None:
            own: dict[str, Any] = self.own["fields"]
            fields = {k: v for k, v in own.items() if calls or k != "tool_calls"}
            return {**self.own, "fields": fields}
        fields = {"content": _CONTENT}
        if self.reasoning is not None:
            fields["content"] = {**_CONTENT, "join": self.reasoning.join}
            fields |= {"reasoning_content": self.reasoning.field, **self.reasoning.others}
        if calls and self.calls is not None:
            fields["tool_calls"] = self.calls.field
        return {"start_anchor": ANCHOR, "fields": fields}

    @cached_property
    def marks(self) -> dict[int, str]:
        """The special tokens that reading needs to see, whatever texts leave out."""
        text = json.dumps(self.template(calls=True), ensure_ascii=False).replace("\\", "")
        return {token: mark for mark, token in self.special.items() if mark in text}

    def reasoning_in(self, prompt: str) -> Reasoning:
        """What of its reasoning stands at the end of a prompt's text."""
        if self.reasoning is None:
            return Reasoning.closed
        end = prompt.rstrip()
        if end.endswith(self.reasoning.open):
            return Reasoning.open
        over = self.reasoning.header or self.reasoning.close
        return Reasoning.closed if end.endswith(over) else Reasoning.none


_CONTENT: dict[str, Any] = {
    "content": "text",
    "content_args": {"strip": False},
    "repeats": True,
    "join": "",
}


def _template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template, or all of them where there are several."""
    given = tokenizer.chat_template or ""
    return "\n".join(given.values()) if isinstance(given, dict) else str(given)


def _marks_of(own: Mapping[str, Any]) -> ReasoningFormat | None:
    """The marks around reasoning in a checkpoint's response template, where these are texts."""
    for name in REASONING_FIELDS:
        found = own["fields"].get(name, {})
        marks = found.get("open"), found.get("close")
        if all(isinstance(mark, str) for mark in marks):
            return between_marks(str(marks[0]), str(marks[1]))
    return None
