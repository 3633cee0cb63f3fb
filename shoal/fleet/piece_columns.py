"""A piece of a job's table as Arrow columns: what travels once to the worker that runs it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from shoal.arrow import require_pyarrow
from shoal.devices.messages import Assign
from shoal.types import RequestTable

COLUMNS = ("params_index", "max_new_tokens", "expected_new_tokens", "seeds", "has_seed", "line")
"""Of a `RequestTable`, one number per request; prompts are a list column, `tokens`."""


def piece_columns(assigned: Assign) -> Any:
    """A pyarrow Table with a row per request.

    Raises:
        OptionError: pyarrow is not installed.
    """
    arrow = require_pyarrow("a job on Ray needs")
    table = assigned.table
    columns = {name: arrow.array(getattr(table, name)) for name in COLUMNS}
    columns["request"] = arrow.array(assigned.requests)
    if table.prompt_index is not None:
        columns["prompt_index"] = arrow.array(table.prompt_index)
    columns["tokens"] = arrow.LargeListArray.from_arrays(table.offsets, arrow.array(table.tokens))
    if table.adapter is not None:
        columns["adapter"] = arrow.array(table.adapter)
    shared = {"params": pickle.dumps(list(table.params)), "job_seed": str(table.job_seed)}
    shared["adapters"] = pickle.dumps(table.adapters)
    return arrow.table(columns).replace_schema_metadata(shared)


def assigned_piece(piece: Any) -> Assign:
    """The inverse of `piece_columns`; the arrays are new and may be written to."""
    tokens = piece.column("tokens").combine_chunks()
    shared = piece.schema.metadata

    def column(name: str) -> Any:
        return np.array(piece.column(name).to_numpy())

    table = RequestTable(
        tokens=np.array(tokens.values.to_numpy()),
        offsets=np.array(tokens.offsets.to_numpy()),
        params=pickle.loads(shared[b"params"]),
        job_seed=int(shared[b"job_seed"]),
        adapters=pickle.loads(shared[b"adapters"]),
        adapter=column("adapter") if "adapter" in piece.column_names else None,
        prompt_index=column("prompt_index") if "prompt_index" in piece.column_names else None,
        **{name: column(name) for name in COLUMNS},
    )
    return Assign(table, column("request"))
