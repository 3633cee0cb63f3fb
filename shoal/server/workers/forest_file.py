"""The picture of a batch's prefix forest, for the page: written when its run begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import orjson

from shoal.devices import RunProtocol
from shoal.report.excerpts import Decode, Excerpts
from shoal.report.forest_svg import draw_forest
from shoal.server.messages import put_picture
from shoal.types import RequestTable

MOST_SEGMENTS = 600
"""That are drawn one by one; the others are merged, see `make_icicle`."""

_log = logging.getLogger(__name__)


class ForestFiles:
    """Writes the pictures of one run after another."""

    def __init__(self) -> None:
        self._without = set[str]()
        """Folders of batches of which it was said: they may be tried again every few seconds."""

    def write(
        self, folders: Sequence[Path], table: RequestTable, run: RunProtocol, decode: Decode | None
    ) -> None:
        """Write a run's picture into the folder of each of its batches; none fails for want of it.

        Args:
            decode: text of token ids; None: the picture shows none of the prompts' texts.

        An earlier picture is replaced: it is always that of the last run.
        """
        names = {folder.name for folder in folders}
        try:
            data = forest_data(table, run, len(folders), decode)
            put_picture(folders, data, with_texts=decode is not None)
            self._without -= names
        except Exception as error:
            new = sorted(names - self._without)
            self._without |= names
            if new:
                why = "no picture of the plan could be made"
                _log.warning("%s for %s: %s", why, ", ".join(new), error)


def forest_data(
    table: RequestTable, run: RunProtocol, batches: int, decode: Decode | None
) -> bytes:
    """The picture as JSON; its rectangles are those of `ForestPicture`."""
    plan, planned = run.plan, run.planned
    excerpts = Excerpts(table, decode or (lambda ids: ""))
    picture = draw_forest(plan, run.prompt_lengths, excerpts, most_segments=MOST_SEGMENTS)
    return orjson.dumps(
        {
            "batches": batches,
            "sequences": plan.num_sequences,
            "prompt_tokens": planned.prompt_tokens,
            "computed_prompt_tokens": planned.computed_prompt_tokens,
            "shared_prefixes": plan.num_segments,
            "depth": picture.depth,
            "bounds": picture.bounds,
            "size": picture.size,
            "rects": picture.rects,
            "segments": [segment if decode else (*segment[:4], "") for segment in picture.segments],
            "merged": picture.merged_saved,
        }
    )
