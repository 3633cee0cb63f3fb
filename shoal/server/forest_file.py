"""The picture of a batch's prefix forest, for the page: written when its run begins."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import orjson

from shoal.devices import RunProtocol
from shoal.report.excerpts import Decode, Excerpts
from shoal.report.forest_svg import draw_forest
from shoal.types import RequestTable

FOREST_FILE = "forest.json"
MOST_SEGMENTS = 600
"""That are drawn one by one; the others are merged, see `make_icicle`."""

_log = logging.getLogger(__name__)


def forest_path(root: Path, output: str) -> Path:
    """Where the picture is of a batch whose output is there, below the data directory."""
    return (root / output).with_name(FOREST_FILE)


def write_forest(folder: Path, table: RequestTable, run: RunProtocol, decode: Decode) -> None:
    """Write the picture into a batch's folder; a batch never fails for want of it.

    An earlier picture is replaced: it is always that of the last run.
    """
    try:
        data = forest_data(table, run, decode)
        unfinished = folder / f"{FOREST_FILE}.tmp"
        unfinished.write_bytes(data)
        os.replace(unfinished, folder / FOREST_FILE)
    except Exception as error:
        _log.warning("no picture of the plan could be made: %s", error)


def forest_data(table: RequestTable, run: RunProtocol, decode: Decode) -> bytes:
    """The picture as JSON; its rectangles are those of `ForestPicture`."""
    plan, planned = run.plan, run.planned
    excerpts = Excerpts(table, decode)
    picture = draw_forest(plan, run.prompt_lengths, excerpts, most_segments=MOST_SEGMENTS)
    return orjson.dumps(
        {
            "sequences": plan.num_sequences,
            "prompt_tokens": planned.prompt_tokens,
            "computed_prompt_tokens": planned.computed_prompt_tokens,
            "shared_prefixes": plan.num_segments,
            "depth": picture.depth,
            "bounds": picture.bounds,
            "size": picture.size,
            "rects": picture.rects,
            "segments": picture.segments,
            "merged": picture.merged_saved,
        }
    )
