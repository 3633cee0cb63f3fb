"""The prompts in a column of a data set."""

from __future__ import annotations

from typing import Any

from shoal.errors import InvalidRequestError, OptionError


def prompt_column(table: Any, name: str) -> Any:
    """The column of a pyarrow table.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in table.column_names:
        raise OptionError(
            f"the data set has no column {name!r} with prompts, but {', '.join(table.column_names)}"
            ": name one as ProcessorConfig(column=...), or make one with preprocess."
        )
    return table.column(name)


def prompt_values(column: Any, *, chat: bool) -> list[Any]:
    """One entry per row: a text, token ids, a conversation, or what is wrong."""
    name = "messages" if chat else "prompt"
    return [_value(value, chat, name) for value in column.to_pylist()]


def _value(value: Any, chat: bool, name: str) -> Any:
    if value is None:
        return InvalidRequestError(
            "the row has no prompt.", code="missing_required_field", param=name
        )
    if not chat:
        if isinstance(value, str) or _are_ids(value):
            return value
        wanted = "a text or a list of token ids"
    else:
        if isinstance(value, list) and all(isinstance(message, dict) for message in value):
            return [_present(message) for message in value]
        wanted = 'a list of {"role", "content"}'
    return InvalidRequestError(
        f"the row's prompt must be {wanted}, not {value!r:.80}.", code="invalid_value", param=name
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


def _present(value: Any) -> Any:
    """Without the fields that Arrow fills in because other rows' messages have them."""
    if isinstance(value, dict):
        return {name: _present(inner) for name, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value
