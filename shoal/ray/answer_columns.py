"""The columns that a processor adds to a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shoal.errors import InvalidRequestError, OptionError
from shoal.llm.request_output import RequestOutput
from shoal.results.answer_fields import FieldKind, field_kinds, field_value, json_text

Answer = RequestOutput | InvalidRequestError
"""What became of a row; an error also where the row never reached the model."""


class AnswerColumns:
    """Names and types of the columns, the same for every block.

    Args:
        schema: of answers in JSON (`ProcessorConfig.schema`). Its top-level properties are the
            fields of `parsed`; without any, `parsed` is JSON text. None: no such column.
    """

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        import pyarrow as pa

        self._kinds = {} if schema is None else field_kinds(schema)
        fields = [
            pa.field("generated_text", pa.string()),
            pa.field("num_input_tokens", pa.int64()),
            pa.field("num_generated_tokens", pa.int64()),
            pa.field("finish_reason", pa.string()),
        ]
        if schema is not None:
            fields.append(pa.field("parsed", self._parsed_type()))
        fields += [pa.field("error", pa.string()), pa.field("error_code", pa.string())]
        self._schema = pa.schema(fields)

    def joined(self, table: Any, answers: Sequence[Answer]) -> Any:
        """The table with an answer beside each row.

        Raises:
            OptionError: the table has a column of one of the names.
        """
        import pyarrow as pa

        if taken := [name for name in self._schema.names if name in table.column_names]:
            raise OptionError(
                f"the data set has columns {', '.join(taken)}, which answers need: rename them "
                "with Dataset.rename_columns."
            )
        rows = [self._values(answer) for answer in answers]
        for field in self._schema:
            column = pa.array([row.get(field.name) for row in rows], field.type)
            table = table.append_column(field, column)
        return table

    def _parsed_type(self) -> Any:
        import pyarrow as pa

        if not self._kinds:
            return pa.string()
        return pa.struct(
            [
                (name, pa.string() if kind is FieldKind.json else pa.type_for_alias(kind.value))
                for name, kind in self._kinds.items()
            ]
        )

    def _values(self, answer: Answer) -> dict[str, Any]:
        error = answer if isinstance(answer, InvalidRequestError) else answer.error
        tokens = None if isinstance(answer, InvalidRequestError) else answer.prompt_tokens
        found: dict[str, Any] = {"num_input_tokens": None if tokens is None else len(tokens)}
        if error is not None:
            return found | {"error": error.message, "error_code": error.code}
        assert isinstance(answer, RequestOutput)
        output = answer.outputs[0]
        return found | {
            "generated_text": output.text,
            "num_generated_tokens": len(output.token_ids),
            "finish_reason": output.finish_reason,
            "parsed": self._parsed(output.text) if "parsed" in self._schema.names else None,
        }

    def _parsed(self, text: str) -> Any:
        """None where the answer was cut off before it was JSON."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not self._kinds:
            return json_text(value)
        if not isinstance(value, Mapping):
            return None
        return {name: field_value(value.get(name), kind) for name, kind in self._kinds.items()}
