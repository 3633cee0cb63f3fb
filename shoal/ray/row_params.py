"""The sampling parameters of a data set's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shoal.errors import InvalidRequestError
from shoal.llm.sampling_params import SamplingParams
from shoal.llm.structured_outputs import StructuredOutputsParams

COLUMN = "sampling_params"


def params_of(fields: Mapping[str, Any]) -> SamplingParams:
    """Of keywords; `structured_outputs` may be those of `StructuredOutputsParams`.

    Raises:
        InvalidRequestError: a wrong name or value, or more than one output.
    """
    given = dict(fields)
    asked = given.get("structured_outputs")
    try:
        if isinstance(asked, Mapping):
            given["structured_outputs"] = StructuredOutputsParams(**_present(asked))
        params = SamplingParams(**given)
    except TypeError as error:
        raise _wrong(str(error)) from None
    if params.n != 1:
        raise _wrong(
            f"n={params.n}, but a row has one answer: repeat the row n times with flat_map. Equal "
            "prompts are computed once."
        )
    return params


def row_params(
    rows: Sequence[Any], common: Mapping[str, Any]
) -> list[SamplingParams | InvalidRequestError]:
    """One entry per row, equal objects where rows say the same.

    Args:
        rows: what the rows' column holds: a mapping, JSON text, or None.
        common: what holds where a row says nothing.
    """
    made: dict[bytes, SamplingParams | InvalidRequestError] = {}
    found = []
    for row in rows:
        key = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
        if key not in made:
            made[key] = _made(row, common)
        found.append(made[key])
    return found


def _made(row: Any, common: Mapping[str, Any]) -> SamplingParams | InvalidRequestError:
    try:
        given = orjson.loads(row) if isinstance(row, str) else row
        if given is not None and not isinstance(given, Mapping):
            raise _wrong("a row must hold a mapping or JSON text.")
        return params_of({**common, **_present(given or {})})
    except orjson.JSONDecodeError as error:
        return _wrong(str(error))
    except InvalidRequestError as error:
        return error


def _wrong(message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{COLUMN}: {message}", code="invalid_value", param=COLUMN)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that Arrow fills in because other rows have them."""
    return {name: value for name, value in fields.items() if value is not None}
