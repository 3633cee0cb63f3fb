"""vLLM's `StructuredOutputsParams`: what an output is to look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shoal.answers.structure import Structure, of_structured_outputs


@dataclass(kw_only=True)
class StructuredOutputsParams:
    """What an output must look like; one of the first five is given.

    Attributes:
        json: a JSON schema, or its text.
        regex: a regular expression that all of the output matches; without look-around.
        choice: the outputs there may be.
        grammar: a context-free grammar, in Lark's or GBNF's syntax.
        json_object: any JSON object.
        disable_any_whitespace: JSON without spaces and line breaks between its parts.
        whitespace_pattern: a regular expression of what may stand between the parts of JSON.
        disable_additional_properties, structural_tag: refused if they are set.

    Raises:
        InvalidRequestError: none or several are given, or a value is wrong.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        self.structure()

    def structure(self) -> Structure:
        """The same as a grammar; see `shoal.answers.structure`.

        Raises:
            InvalidRequestError: see the class.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return of_structured_outputs(given, "structured_outputs")
