"""How models write calls of tools and their reasoning, as data.

A form is a field of transformers' response templates, which read answers, and the parts of a call
in turn, from which the grammar of an enforced call is made. Names are those of vLLM's parsers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAME, ARGUMENTS, SPACE, NAME_JSON = object(), object(), object(), object()
"""Parts of a call that are no fixed text: the function's name, its arguments, a little white space,
and the name as JSON writes it."""

Parts = tuple[object, ...]


def _object(name: str, arguments: str) -> Parts:
    """The parts of a JSON object with two keys."""
    head = ("{", SPACE, f'"{name}"', SPACE, ":", SPACE, NAME_JSON, SPACE, ",", SPACE)
    return (*head, f'"{arguments}"', SPACE, ":", SPACE, ARGUMENTS, SPACE, "}")


@dataclass(frozen=True)
class CallFormat:
    """How a model calls tools.

    Attributes:
        field: of a response template: what calls look like in an answer.
        before, call, between, after: what an answer of calls consists of. Texts that are special
            tokens of the model are those tokens.
        several: whether an answer may have more than one.
        short_ids: whether templates demand ids of nine letters and digits.
    """

    field: dict[str, Any]
    call: Parts
    before: Parts = ()
    between: Parts = (SPACE,)
    after: Parts = ()
    several: bool = True
    short_ids: bool = False


_FUNCTION = {"function": "{content}"}
_NAMED = {"function": {"name": "{name}", "arguments": "{content}"}}

HERMES = CallFormat(
    field={
        "open_pattern": r"\s*<tool_call>",
        "close": "</tool_call>",
        "repeats": True,
        "content": "json",
        "transform": _FUNCTION,
    },
    call=("<tool_call>", SPACE, *_object("name", "arguments"), SPACE, "</tool_call>"),
)
LLAMA3 = CallFormat(
    field={
        "open_pattern": r'(?:\A|;)\s*(?:<\|python_tag\|>)?\s*(?=\{\s*"name")',
        "close_pattern": r'(?=\s*;\s*\{\s*"name")',
        "repeats": True,
        "content": "json",
        "transform": _FUNCTION,
    },
    call=_object("name", "parameters"),
    several=False,
)
MISTRAL = CallFormat(
    field={
        "open_pattern": r"\[TOOL_CALLS\]\s*(?=\[)",
        "content": "json",
        "transform": {
            "function": {"name": "{name}", "arguments": "{arguments}"},
        },
        "transform_each": True,
    },
    before=("[TOOL_CALLS]", SPACE, "["),
    call=_object("name", "arguments"),
    between=(",", SPACE),
    after=("]",),
    short_ids=True,
)
MISTRAL_ARGUMENTS = CallFormat(
    field={
        "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\]{}]+)(?:\[ARGS\])?\s*(?=\{)",
        "close_pattern": r"(?=\[TOOL_CALLS\])",
        "repeats": True,
        "content": "json",
        "transform": _NAMED,
    },
    call=("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS),
    between=(),
    short_ids=True,
)


def named_call_format(name: str, template: str) -> CallFormat | None:
    """The form that vLLM's parser of this name reads; Mistral's has two, told by the template."""
    if name == "mistral":
        return MISTRAL_ARGUMENTS if "[ARGS]" in template else MISTRAL
    return {"hermes": HERMES, "llama3_json": LLAMA3}.get(name)


def find_call_format(template: str) -> CallFormat | None:
    """The form in which a chat template writes earlier calls; None if it is none of ours."""
    if "<tool_call>" in template:
        return None if "<function=" in template or "<arg_" in template else HERMES
    if "[TOOL_CALLS]" in template:
        return named_call_format("mistral", template)
    if '"parameters": ' in template and '"name": ' in template and "ipython" in template:
        return LLAMA3
    return None


@dataclass(frozen=True)
class ReasoningFormat:
    """The marks around a model's reasoning."""

    open: str
    close: str

    @property
    def field(self) -> dict[str, Any]:
        """Of a response template."""
        return {
            "open": self.open,
            "close": self.close,
            "content": "text",
            "repeats": True,
            "join": "\n",
        }


THINK = ReasoningFormat("<think>", "</think>")
MISTRAL_THINK = ReasoningFormat("[THINK]", "[/THINK]")
REASONING_FORMATS = {"qwen3": THINK, "deepseek_r1": THINK, "mistral": MISTRAL_THINK}
"""By the names of vLLM's parsers."""


def find_reasoning_format(template: str, added_tokens: frozenset[str]) -> ReasoningFormat | None:
    """The marks that a chat template writes or looks for, or that are tokens of their own."""
    for marks in (THINK, MISTRAL_THINK):
        in_tokens = marks.open in added_tokens and marks.close in added_tokens
        if in_tokens or marks.close in template:
            return marks
    return None
