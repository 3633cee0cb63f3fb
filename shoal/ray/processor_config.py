"""What a processor of a data set is to do, and how a large one is cut into pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shoal.errors import OptionError
from shoal.ray.row_params import params_of

ROW_ID = "row_id"
"""Column of a row's id, where the data set names none."""
PIECE = "piece"
"""Column of the number of a row's piece."""


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """The model, its prompts and its actors.

    Attributes:
        model: a folder or a Hub id; None: the bundled model.
        engine_kwargs: of `shoal.LLM`.
        column: that holds the prompts: texts, lists of token ids, or conversations.
        chat: the column holds conversations, lists of {"role", "content"}.
        chat_template_kwargs: passed to the chat template.
        sampling_params: of all rows, as keywords of `shoal.SamplingParams`; what a row's column
            `sampling_params` holds goes before. None: the model's defaults.
        concurrency: actors, each with one LLM; (least, most) lets Ray choose.
        rows_per_plan: that an actor plans together, at least; None: a block at a time.
        num_cpus, num_gpus: of each actor.
    """

    model: str | None = None
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    column: str = "prompt"
    chat: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sampling_params: Mapping[str, Any] | None = None
    concurrency: int | tuple[int, int] = 1
    rows_per_plan: int | None = 100_000
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        """
        Raises:
            OptionError: a number is out of range, or several outputs are asked for.
            InvalidRequestError: sampling_params are wrong.
        """
        actors = self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency,)
        if not all(count >= 1 for count in actors):
            raise OptionError(f"concurrency={self.concurrency}: there must be an actor at least.")
        if self.rows_per_plan is not None and self.rows_per_plan < 1:
            raise OptionError(f"rows_per_plan={self.rows_per_plan} must be at least 1, or None.")
        if self.chat_template_kwargs and not self.chat:
            raise OptionError("chat_template_kwargs are for chat=True.")
        if self.sampling_params is not None:
            params_of(self.sampling_params)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """What tells the parsed answers' fields; empty: any JSON; None: answers are text."""
        if self.sampling_params is None:
            return None
        asked = params_of(self.sampling_params).structured_outputs
        if asked is None or (asked.json is None and not asked.json_object):
            return None
        schema = orjson.loads(asked.json) if isinstance(asked.json, str) else asked.json
        return schema if isinstance(schema, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class PieceConfig:
    """How a data set is cut.

    Attributes:
        rows_per_piece: on average; an actor plans a piece as a whole, so its memory bounds it.
        sample_rows: about how many rows are looked at to choose where pieces begin.
        id_column: whose values are unique; None: a column `row_id` is added.
        concurrency: tasks that write prompts as the model reads them, at a time.
        seed: of the sample.
    """

    rows_per_piece: int = 100_000
    sample_rows: int = 20_000
    id_column: str | None = None
    concurrency: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows_per_piece", "sample_rows", "concurrency"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1.")
