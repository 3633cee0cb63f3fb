"""What an earlier run generated, from its results file."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import orjson

from shoal.arrow import require_pyarrow
from shoal.errors import JobError
from shoal.requests.index import LineIndex
from shoal.requests.lines import LineReader, open_input
from shoal.results.record_answers import token_counts
from shoal.results.result_columns import (
    COMPLETION_TOKENS,
    CUSTOM_ID,
    TEXT,
    columns_by_role,
)
from shoal.results.results_file import is_parquet
from shoal.types import Int64Array, RequestTable


def generated_lengths(path: Path, index: LineIndex, table: RequestTable) -> Int64Array:
    """Tokens generated per choice for each request, int64 [N]; -1 where nothing is known.

    Results are matched by custom_id, so they may be of a part of the job, or of a job with other
    lines as well. A record tells the tokens of all choices of a line together: their mean counts.

    Raises:
        JobError: the file cannot be read or holds no results, or none of this job.
    """
    custom_ids, tokens = (_of_table if is_parquet(path) else _of_lines)(path)
    line = index.lines_of(custom_ids)
    known = line >= 0
    if not known.any():
        raise JobError(f"{path} holds no result of this job; give the output file of a run of it.")
    of_line = np.full(len(index), -1, dtype=np.int64)
    of_line[line[known]] = np.frombuffer(tokens, dtype=np.int64)[known]
    lengths: Int64Array = of_line[table.line]
    return lengths


def _of_lines(path: Path) -> tuple[list[str], array[int]]:
    """The custom_id of each record, and tokens per choice."""
    custom_ids, tokens = list[str](), array("q")
    with open_input(path) as file:
        for raw in LineReader(file):
            if raw.blank:
                continue
            custom_id, generated = _answer(path, raw.number, raw.data)
            custom_ids.append(custom_id)
            tokens.append(generated)
    return custom_ids, tokens


def _of_table(path: Path) -> tuple[list[str], array[int]]:
    """The same of a Parquet file."""
    arrow = require_pyarrow(f"{path} needs")
    from pyarrow import parquet

    custom_ids, tokens = list[str](), array("q")
    try:
        with open_input(path) as source, parquet.ParquetFile(source) as file:
            names = columns_by_role(file.schema_arrow)
            if CUSTOM_ID not in names:
                raise JobError(f"{path} is no result; give the output file of an earlier run.")
            wanted = [names[role] for role in (CUSTOM_ID, COMPLETION_TOKENS, TEXT)]
            for batch in file.iter_batches(columns=wanted):
                ids, generated, texts = (batch[name].to_pylist() for name in wanted)
                custom_ids += ids
                for count, text in zip(generated, texts, strict=True):
                    answers = len(text) if isinstance(text, list) else 1
                    tokens.append(-(-count // max(answers, 1)))
    except arrow.ArrowException as error:
        raise JobError(f"cannot read {path}: {str(error).rstrip('.')}.") from error
    return custom_ids, tokens


def _answer(path: Path, number: int, data: bytes | None) -> tuple[str, int]:
    """custom_id and tokens per choice of one output record."""
    try:
        record = orjson.loads(data or b"")
        body = record["response"]["body"]
        choices = body["output"] if body["object"] == "response" else body["choices"]
        tokens = token_counts(body)[1]
        return str(record["custom_id"]), -(-tokens // max(len(choices), 1))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise JobError(
            f"line {number} of {path} is no result; give the output file of an earlier run."
        ) from None
