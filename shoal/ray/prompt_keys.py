"""Prompts as bytes in the order of their families, and how many tokens they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import InvalidRequestError, OptionError
from shoal.llm.conversations import rendered
from shoal.model.description import bundled_model_path, load_error
from shoal.planner.range_pieces import piece_of
from shoal.prompts.chat_template import ChatTemplate
from shoal.ray.processor_config import PIECE, ProcessorConfig
from shoal.ray.prompt_values import prompt_column, prompt_values
from shoal.ray.row_params import COLUMN, row_params

READ_OPTIONS = ("tokenizer", "skip_tokenizer_init", "trust_remote_code", "chat_template")
"""Those of `engine_kwargs` that decide how a prompt is written, and so where its row lies."""
UNKNOWN_OUTPUT = 256
"""Tokens that a row is taken to generate where nothing limits them."""


class PromptKeys:
    """Writes prompts as the model will read them; loads its tokenizer, and not its weights.

    Raises:
        ModelLoadError: the tokenizer cannot be loaded.
    """

    def __init__(self, config: ProcessorConfig) -> None:
        from transformers import AutoTokenizer

        self._config = config
        options = config.engine_kwargs
        self._tokenizer: Any = None
        if not options.get("skip_tokenizer_init"):
            source = options.get("tokenizer") or config.model or str(bundled_model_path())
            trusted = bool(options.get("trust_remote_code"))
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
            except Exception as error:  # whatever transformers, and code it loads, raise
                raise load_error("tokenizer", source, error) from error
        self._template = None
        if config.chat:
            if self._tokenizer is None:
                raise OptionError("chat=True needs a tokenizer: leave skip_tokenizer_init out.")
            self._template = ChatTemplate(self._tokenizer, options.get("chat_template"))

    def prompts(self, table: Any) -> list[Any]:
        """Text or token ids of each row; an empty text where a row is wrong."""
        values = prompt_values(prompt_column(table, self._config.column), chat=self._config.chat)
        if self._template is not None:
            kwargs = dict(self._config.chat_template_kwargs)
            values = [
                value
                if isinstance(value, InvalidRequestError)
                else rendered(self._template, "messages", value, kwargs)
                for value in values
            ]
        return ["" if isinstance(value, InvalidRequestError) else value for value in values]

    def lengths(self, prompts: Sequence[Any]) -> list[int]:
        """Tokens of each prompt.

        Raises:
            OptionError: there are texts, and no tokenizer.
        """
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if texts and self._tokenizer is None:
            raise OptionError("texts need a tokenizer: leave skip_tokenizer_init out.")
        encoded = iter(self._tokenizer(texts)["input_ids"] if texts else [])
        return [len(next(encoded) if isinstance(p, str) else p) for p in prompts]

    def outputs(self, table: Any) -> list[int]:
        """Tokens that each row may generate; of a wrong row none."""
        rows = table.column(COLUMN).to_pylist() if COLUMN in table.column_names else None
        params = row_params(rows or [None] * len(table), self._config.sampling_params or {})
        limits = [0 if isinstance(p, InvalidRequestError) else p.max_tokens for p in params]
        return [UNKNOWN_OUTPUT if limit is None else limit for limit in limits]


class SampleActor(PromptKeys):
    """Tables of rows become tables of what `PromptSample` holds."""

    def __call__(self, table: Any) -> Any:
        """Columns `key`, `tokens` and `output`."""
        import pyarrow as pa

        prompts = self.prompts(table)
        return pa.table(
            {
                "key": pa.array([key_of(prompt) for prompt in prompts], pa.large_binary()),
                "tokens": pa.array(self.lengths(prompts), pa.int64()),
                "output": pa.array(self.outputs(table), pa.int64()),
            }
        )


class PieceActor(PromptKeys):
    """Gives each row the number of its piece, and an id if it has none.

    Args:
        id_column: to be added; None: rows have ids.
    """

    def __init__(
        self, config: ProcessorConfig, bounds: Sequence[bytes], id_column: str | None
    ) -> None:
        super().__init__(config)
        self._bounds, self._id_column = list(bounds), id_column

    def __call__(self, table: Any) -> Any:
        """The table with the column `piece`, int64."""
        import uuid

        import pyarrow as pa

        keys = [key_of(prompt) for prompt in self.prompts(table)]
        table = table.append_column(PIECE, pa.array(piece_of(keys, self._bounds)))
        if self._id_column is not None:
            ids = [uuid.uuid4().hex for _ in keys]
            table = table.append_column(self._id_column, pa.array(ids, pa.string()))
        return table


def key_of(prompt: str | Sequence[int]) -> bytes:
    """Bytes whose order is that of the prompts' characters or token ids."""
    if isinstance(prompt, str):
        return prompt.encode(errors="surrogatepass")
    return np.asarray(prompt, dtype=">u4").tobytes()
