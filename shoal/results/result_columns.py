"""The columns of a table of results: their names and types, and their values in a record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shoal.results.answer_fields import FieldKind, field_kinds, field_value, json_text
from shoal.results.record_answers import (
    RecordAnswer,
    answers_of,
    reasoning_tokens,
    token_counts,
)
from shoal.results.survey import Survey

CUSTOM_ID, TEXT, COMPLETION_TOKENS = "custom_id", "text", "completion_tokens"

_TAKEN = "answer_"
"""Goes before the name of a column whose name is taken."""
_ROLE = b"shoal"
"""Metadata of a column in the file: its role."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A record of a request that succeeded.

    Attributes:
        parsed: each answer as decoded JSON; None where it is none, or none was asked for.
    """

    custom_id: str
    prompt_tokens: int
    completion_tokens: int
    answers: Sequence[RecordAnswer]
    parsed: Sequence[Any]
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One column.

    Attributes:
        name: in the file.
        kind: its pyarrow type.
        role: its name if that had not been taken; None for a property of an answer.
    """

    name: str
    kind: Any
    value: Callable[[ResultRow], Any]
    role: str | None = None

    @property
    def field(self) -> Any:
        """Its pyarrow field."""
        import pyarrow as pa

        role = None if self.role is None else {_ROLE: self.role.encode()}
        return pa.field(self.name, self.kind, metadata=role)


def columns_by_role(schema: Any) -> dict[str, str]:
    """The names of the columns in a file of results; empty for another table.

    Args:
        schema: of pyarrow.
    """
    roles = {field.name: (field.metadata or {}).get(_ROLE) for field in schema}
    return {role.decode(): name for name, role in roles.items() if role is not None}


def result_row(record: bytes, *, parse: bool) -> ResultRow:
    """The row of an output record.

    Args:
        parse: the request asked for JSON.
    """
    content = orjson.loads(record)
    body = content["response"]["body"]
    answers = answers_of(body)
    parsed = [_parsed(answer.text) if parse else None for answer in answers]
    counts = token_counts(body)
    return ResultRow(content["custom_id"], *counts, answers, parsed, reasoning_tokens(body))


def result_columns(survey: Survey, taken: Collection[str] = ()) -> list[ResultColumn]:
    """The columns of a job's results, in order.

    Where a line asks for several answers, what each answer has is a list.

    Args:
        taken: names that the columns may not have. `answer_` goes before such a name.
    """
    import pyarrow as pa

    names = set(taken)

    def free(name: str) -> str:
        while name in names:
            name = _TAKEN + name
        names.add(name)
        return name

    def column(name: str, kind: Any, value: Callable[[ResultRow], Any], own: bool = True) -> None:
        columns.append(ResultColumn(free(name), kind, value, name if own else None))

    columns: list[ResultColumn] = []
    column(CUSTOM_ID, pa.string(), lambda row: row.custom_id)
    for name, kind, value, own in _answer_columns(survey):
        if survey.several:
            column(name, pa.list_(kind), _of_each(value), own)
        else:
            column(name, kind, _of_first(value), own)
    column("prompt_tokens", pa.int64(), lambda row: row.prompt_tokens)
    column(COMPLETION_TOKENS, pa.int64(), lambda row: row.completion_tokens)
    if survey.reasoning:
        column("reasoning_tokens", pa.int64(), lambda row: row.reasoning_tokens)
    return columns


_OfAnswer = Callable[[RecordAnswer, Any], Any]
"""From an answer, and what it is as JSON, to a value."""


def _answer_columns(survey: Survey) -> Iterator[tuple[str, Any, _OfAnswer, bool]]:
    """Name, type and value of each column that an answer has, and whether it is no property."""
    import pyarrow as pa

    kinds = {} if survey.schema is None else field_kinds(survey.schema)
    text, number = pa.string(), pa.float64()
    yield TEXT, text, lambda answer, _: answer.text, True
    if survey.reasoning:
        yield "reasoning", text, lambda answer, _: answer.reasoning, True
    if survey.scored:
        yield from _scored_columns(survey.choices)
    for name, kind in kinds.items():
        yield name, _arrow_type(kind), _field(name, kind), False
    if survey.json and not kinds:
        yield "json", text, lambda _, parsed: None if parsed is None else json_text(parsed), True
    if survey.calls:
        call = pa.struct([("id", text), ("name", text), ("arguments", text)])
        yield "tool_calls", pa.list_(call), lambda answer, _: answer.calls, True
    yield "finish_reason", text, lambda answer, _: answer.finish_reason, True
    if survey.logprobs:
        yield "cumulative_logprob", number, lambda answer, _: answer.cumulative_logprob, True
        yield "tokens", pa.list_(text), lambda answer, _: answer.tokens, True
        yield "token_logprobs", pa.list_(number), lambda answer, _: answer.logprobs, True
    if survey.top_logprobs:
        token = pa.struct([("token", text), ("logprob", number)])
        yield "top_logprobs", pa.list_(pa.list_(token)), lambda answer, _: answer.top, True


def _scored_columns(choices: Sequence[str] | None) -> Iterator[tuple[str, Any, _OfAnswer, bool]]:
    """The label, then the probability of each choice: a column each where all lines have these."""
    import pyarrow as pa

    yield (
        "label",
        pa.string(),
        lambda answer, _: answer.text if answer.probabilities else None,
        True,
    )
    if choices is None:
        kind = pa.list_(pa.struct([("choice", pa.string()), ("probability", pa.float64())]))
        yield "probabilities", kind, _probabilities, True
    for choice in choices or ():
        yield f"probability_{choice.strip()}", pa.float64(), _probability(choice), False


def _probability(choice: str) -> _OfAnswer:
    return lambda answer, _: (answer.probabilities or {}).get(choice)


def _probabilities(answer: RecordAnswer, _: Any) -> Any:
    if answer.probabilities is None:
        return None
    return [{"choice": text, "probability": p} for text, p in answer.probabilities.items()]


def _field(name: str, kind: FieldKind) -> _OfAnswer:
    def value(_: RecordAnswer, parsed: Any) -> Any:
        return field_value(parsed.get(name), kind) if isinstance(parsed, Mapping) else None

    return value


def _arrow_type(kind: FieldKind) -> Any:
    import pyarrow as pa

    return pa.string() if kind is FieldKind.json else pa.type_for_alias(kind.value)


def _of_each(value: _OfAnswer) -> Callable[[ResultRow], Any]:
    return lambda row: [value(a, p) for a, p in zip(row.answers, row.parsed, strict=True)]


def _of_first(value: _OfAnswer) -> Callable[[ResultRow], Any]:
    return lambda row: value(row.answers[0], row.parsed[0])


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
