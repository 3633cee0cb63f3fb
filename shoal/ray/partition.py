"""A data set larger than one plan, cut into pieces of whole families."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson

from shoal.errors import OptionError
from shoal.planner.range_pieces import PromptSample, piece_bounds
from shoal.ray.data_digest import data_digest
from shoal.ray.dataset_processor import actor_pool
from shoal.ray.piece_folder import PieceFolder, WrittenPieces
from shoal.ray.processor_config import PIECE, ROW_ID, PieceConfig, ProcessorConfig
from shoal.ray.prompt_keys import READ_OPTIONS, PieceActor, SampleActor
from shoal.ray.require_ray import require_ray_data


def partition(
    dataset: Any, path: str, config: ProcessorConfig, cut: PieceConfig | None = None
) -> WrittenPieces:
    """Write a data set's rows as Parquet, a folder for each piece, for `read_pieces`.

    A sample of the prompts, as the model will read them, decides where pieces begin: where
    neighbours share least, near where the predicted work is even. Ray Data sorts the rows by the
    number of their piece. The driver holds the sample, and nothing else of the rows. A finished
    partition is not done again, if it is of the same rows, which are read once to see it; one that
    was cut off begins anew.

    Args:
        dataset: a ray.data.Dataset, with the column of prompts that `config` names.
        path: a folder that all nodes share; absolute, or a URI.

    Raises:
        OptionError: something else lies there, as are pieces of other rows or cut otherwise; names
            are taken; or there are no rows.
    """
    cut = cut or PieceConfig()
    folder = PieceFolder(path)
    done = folder.load()
    if done is None:
        folder.clear()
    _check_names(dataset, cut)
    count, digest = data_digest(dataset)
    asked = _asked(config, cut) | {"data": digest}
    if done is not None:
        if changed := sorted(key for key in asked if done.asked.get(key) != asked[key]):
            raise OptionError(
                f"{path} holds pieces that were cut otherwise or from other rows (different: "
                f"{', '.join(changed)}): give another folder."
            )
        return done
    bounds = _bounds(dataset, count, config, cut)
    data = require_ray_data()
    numbered = dataset.map_batches(
        PieceActor,
        fn_constructor_args=(config, bounds, ROW_ID if cut.id_column is None else None),
        batch_format="pyarrow",
        compute=actor_pool(data, cut.concurrency),
    )
    # As many partitions as pieces: each reduce task writes one.
    ranges = list(range(1, len(bounds) + 1))
    if ranges:
        numbered = numbered.sort(PIECE, boundaries=ranges)
    numbered.write_parquet(path, partition_cols=[PIECE])
    return folder.finish(cut.id_column or ROW_ID, asked)


def _asked(config: ProcessorConfig, cut: PieceConfig) -> dict[str, Any]:
    """What decides which row lies where, as JSON has it."""
    asked = {
        "model": config.model,
        "column": config.column,
        "chat": config.chat,
        "chat_template_kwargs": dict(config.chat_template_kwargs),
        "engine_kwargs": {name: config.engine_kwargs.get(name) for name in READ_OPTIONS},
        "rows_per_piece": cut.rows_per_piece,
        "id_column": cut.id_column,
    }
    found: dict[str, Any] = orjson.loads(orjson.dumps(asked, default=str))
    return found


def _check_names(dataset: Any, cut: PieceConfig) -> None:
    names = dataset.columns() or []
    added = [PIECE] + ([ROW_ID] if cut.id_column is None else [])
    if taken := [name for name in added if name in names]:
        raise OptionError(
            f"the data set has a column {taken[0]!r}, which pieces need: rename it with "
            "Dataset.rename_columns, or name it as PieceConfig(id_column=...) if it holds ids."
        )
    if cut.id_column is not None and cut.id_column not in names:
        raise OptionError(f"the data set has no column {cut.id_column!r} of ids.")


def _bounds(dataset: Any, count: int, config: ProcessorConfig, cut: PieceConfig) -> list[bytes]:
    """Where pieces begin, from a sample of the data set of so many rows."""
    if not count:
        raise OptionError("the data set has no rows.")
    pieces = math.ceil(count / cut.rows_per_piece)
    if pieces == 1:
        return []
    rate = min(1.0, max(cut.sample_rows, 4 * pieces) / count)
    chosen = dataset if rate == 1 else dataset.random_sample(rate, seed=cut.seed)
    rows = chosen.map_batches(
        SampleActor,
        fn_constructor_args=(config,),
        batch_format="pyarrow",
        compute=actor_pool(require_ray_data(), cut.concurrency),
    ).take_all()
    columns = ([row[name] for row in rows] for name in ("key", "tokens", "output"))
    keys, tokens, output = columns
    sample = PromptSample(keys, np.array(tokens, np.int64), np.array(output, np.int64), rate)
    return piece_bounds(sample, pieces)
