"""How models write calls of tools and their reasoning, as data.

A form is a field of transformers' response templates, which read answers, and the parts of a call
in turn, from which the grammar of an enforced call is made. Names are those of vLLM's parsers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

NAME, ARGUMENTS, SPACE, NAME_JSON = object(), object(), object(), object()
"""Parts of a call that are no fixed text: the function's name, its arguments, a little white space,
and the name as JSON writes it."""

Parts = tuple[object, ...]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A part of a call that may be written in several ways."""

    ways: tuple[Parts, ...]


@dataclasses.dataclass(frozen=True)
class ParameterFormat:
    """How arguments are written that are no JSON object: one parameter after the other.

    Attributes:
        before, end: around a value; `NAME` is the parameter's name.
        text_end: the last of `end`, which no text contains; None: texts are written as JSON.
        between: what stands between two parameters.
    """

    before: Parts
    end: str = ""
    text_end: str | None = None
    between: Parts = ()


@dataclasses.dataclass(frozen=True)
class CallFormat:
    """How a model calls tools.

    Attributes:
        field: of a response template: what calls look like in an answer.
        before, call, between, after: what an answer of calls consists of. Texts that are special
            tokens of the model are those tokens.
        several: whether an answer may have more than one.
        mark: begins calls wherever it stands; None: only an answer that begins with one calls.
        prefix: a token that may stand before an answer of calls.
        ends: whether a call is the end of an answer: its last token ends the sequence.
        parameters: how arguments are written; None: as the JSON of an object.
        read: calls from the text of the field, where a response template cannot tell them.
        short_ids: whether templates demand ids of nine letters and digits.
    """

    field: dict[str, Any]
    call: Parts
    before: Parts = ()
    between: Parts = (SPACE,)
    after: Parts = ()
    several: bool = True
    mark: str | None = None
    prefix: str | None = None
    ends: bool = False
    parameters: ParameterFormat | None = None
    read: Callable[[str], list[dict[str, Any]]] | None = None
    short_ids: bool = False


@dataclasses.dataclass(frozen=True)
class ReasoningFormat:
    """The marks around a model's reasoning.

    Attributes:
        open, close: around it.
        after: what follows `close` before the model goes on; then it may reason again.
        header: what begins an answer that is no reasoning.
        field: of a response template.
        others: fields for what is neither reasoning nor content.
        join: what stands between two pieces of content.
    """

    open: str
    close: str
    after: str = ""
    header: str = ""
    field: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    join: str = ""


def between_marks(open: str, close: str) -> ReasoningFormat:
    """Reasoning between two marks, and an answer right behind."""
    marks = {"open": open, "close": close}
    return ReasoningFormat(
        open, close, field={**marks, "content": "text", "repeats": True, "join": "\n"}
    )
